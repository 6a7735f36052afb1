"""Whether the paravisor's report is read strictly."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.azure.bundle import decode_azure_bundle
from keep_attestation.azure.hcl import parse_hcl_report
from keep_attestation.azure.tdreport import tdreport_problem, unpadded_quote
from keep_attestation.errors import MalformedEvidenceError
from tests.unit.keep_attestation.azure.forge import hcl_report, jwk, runtime_data

KEY = rsa.generate_private_key(65537, 2048)
HARDWARE = bytes(range(256)) * 4
REPORT = hcl_report(HARDWARE, runtime_data(KEY))


def test_a_report_yields_the_key_the_settings_and_what_the_hardware_must_carry() -> None:
    report = parse_hcl_report(REPORT)
    assert report.attestation_key == KEY.public_key()
    assert report.vm_configuration["secure-boot"] is True
    assert len(report.report_data) == 64
    assert report.report_data[32:] == bytes(32)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"HCLB"},
        {"version": 0},
        {"version": 3},
        {"report_type": 3},
        {"hash_type": 2},
        {"size": 2000},
        {"padding": b"\x00\x01"},
    ],
    ids=str,
)
def test_a_report_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_hcl_report(hcl_report(HARDWARE, runtime_data(KEY), **changes))


@pytest.mark.parametrize(
    "runtime",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"keys":' + b"[" * 5000,
        runtime_data(KEY)[:-1],
        runtime_data(KEY, keys=[]),
        runtime_data(KEY, keys=[jwk(KEY), jwk(KEY)]),
        runtime_data(KEY, keys=[jwk(KEY, "HCLEkPub")]),
        runtime_data(KEY, keys=[jwk(KEY) | {"kty": "EC"}]),
        runtime_data(KEY, keys=[jwk(KEY) | {"e": "Aw"}]),
        runtime_data(KEY, keys=[jwk(KEY) | {"n": "?"}]),
        runtime_data(KEY, keys=[jwk(KEY) | {"n": "ü"}]),
        runtime_data(KEY, keys=[jwk(KEY) | {"n": "AQAB"}]),
        runtime_data(KEY, **{"user-data": "0g" * 64}),
        runtime_data(KEY, **{"user-data": "00"}),
        runtime_data(KEY, **{"vm-configuration": {"nested": {}}}),
        runtime_data(KEY, **{"vm-configuration": {str(number): True for number in range(65)}}),
    ],
    ids=lambda runtime: runtime[:60].decode(errors="replace"),
)
def test_runtime_data_of_another_form_are_refused(runtime: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_hcl_report(hcl_report(HARDWARE, runtime))


def test_a_report_cut_before_its_padding_is_refused() -> None:
    length = len(REPORT) - 100
    for cut in range(0, length, 11):
        with pytest.raises(MalformedEvidenceError):
            parse_hcl_report(REPORT[:cut])
    parse_hcl_report(REPORT[:length])


def test_a_quote_of_another_td_or_version_is_refused() -> None:
    report = bytearray(1184)
    report[0] = 0x81
    report[128:192], report[512:912] = b"d" * 64, b"i" * 400
    body = bytes(120) + b"i" * 400 + b"d" * 64
    quote = b"\x04\x00" + bytes(46) + body
    assert tdreport_problem(bytes(report), quote) is None
    assert tdreport_problem(bytes(report), b"\x05\x00" + bytes(52) + body) is None
    assert "REPORTDATA" in str(tdreport_problem(bytes(report), quote[:-1] + b"e"))
    assert "measurements" in str(tdreport_problem(bytes(report), quote.replace(b"i", b"j", 1)))
    for wrong in (b"\x03\x00" + quote[2:], b""):
        with pytest.raises(MalformedEvidenceError):
            tdreport_problem(bytes(report), wrong)
    for other in (bytes(1184), bytes(report[:1000]), bytes(report[:-1]) + b"\x01"):
        with pytest.raises(MalformedEvidenceError):
            tdreport_problem(other, quote)


def test_zeros_after_a_td_quote_are_taken_off_and_anything_else_is_left_for_the_verifier() -> None:
    quote = b"\x04\x00" + bytes(46 + 584) + (5).to_bytes(4, "little") + b"\x01\x02\x03\x04\x00"
    assert unpadded_quote(quote + bytes(70)) == quote
    assert unpadded_quote(quote + b"\x00\x01") == quote + b"\x00\x01"
    fifth = b"\x05\x00" + bytes(48) + (648).to_bytes(4, "little") + bytes(648) + (2).to_bytes(4, "little") + b"\x01\x00"
    assert unpadded_quote(fifth + bytes(3)) == fifth
    for other in (b"", b"\x04\x00", b"\x03\x00\x00", quote[:-1]):
        assert unpadded_quote(other) == other


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.sampled_from([parse_hcl_report, decode_azure_bundle]),
    st.lists(st.tuples(st.integers(0, len(REPORT) - 1), st.integers(0, 255)), max_size=5),
    st.binary(max_size=40),
)
def test_whatever_comes_nothing_but_malformed_evidence_is_raised(
    parse: Any, changes: list[tuple[int, int]], other: bytes
) -> None:
    raw = bytearray(REPORT)
    for offset, value in changes:
        raw[offset] = value
    for data in (bytes(raw), other, bytes(raw[:1236]) + other):
        try:
            parse(data)
        except MalformedEvidenceError:
            continue
