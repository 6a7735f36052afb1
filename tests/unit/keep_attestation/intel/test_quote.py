"""Whether quotes are read to their exact end, and everything that no verifier here knows is refused by name."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.intel.quote import CertificationDataType, parse_quote, trim_zero_padding
from keep_attestation.intel.reports import EnclaveReport, TdAttributes, TdReport
from tests.unit.keep_attestation.intel.forge import Forge, enclave_report, td_report

FORGE = Forge()
QUOTES = {
    "v3-sgx": FORGE.quote(enclave_report(), version=3),
    "v4-td10": FORGE.quote(td_report(), version=4),
    "v5-td10": FORGE.quote(td_report(), version=5),
    "v5-td15": FORGE.quote(td_report(mr_service_td=bytes(48)), version=5),
}


def patched(quote: bytes, offset: int, value: bytes) -> bytes:
    return quote[:offset] + value + quote[offset + len(value) :]


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES.keys())
def test_a_quote_is_read_whole(quote: bytes) -> None:
    read = parse_quote(quote)
    assert read.certification_data_type is CertificationDataType.PCK_CHAIN
    assert read.certification_data == FORGE.pck_chain()
    assert quote.startswith(read.signed)


def test_the_body_is_of_the_kind_that_the_header_says() -> None:
    td = parse_quote(QUOTES["v5-td15"]).body
    assert isinstance(td, TdReport)
    assert td.mr_service_td == bytes(48)
    assert td.flags == TdAttributes.SEPT_VE_DISABLE
    assert isinstance(parse_quote(QUOTES["v3-sgx"]).body, EnclaveReport)


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES.keys())
def test_what_follows_a_quote_is_refused_even_zeros(quote: bytes) -> None:
    for trailing in (b"\x00", b"x", quote):
        with pytest.raises(MalformedEvidenceError, match="follow its end"):
            parse_quote(quote + trailing)


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES.keys())
def test_a_quote_cut_at_any_length_is_refused(quote: bytes) -> None:
    for size in (*range(0, len(quote), 7), len(quote) - 1):
        with pytest.raises(MalformedEvidenceError):
            parse_quote(quote[:size])


@pytest.mark.parametrize(("name", "body_size"), [("v3-sgx", 384), ("v4-td10", 584)])
def test_bytes_hidden_inside_the_authentication_data_are_refused(name: str, body_size: int) -> None:
    quote = QUOTES[name] + b"x"
    lengths = [48 + body_size] if name == "v3-sgx" else [48 + body_size, 48 + body_size + 4 + 128 + 2]
    for offset in lengths:
        size = int.from_bytes(quote[offset : offset + 4], "little")
        quote = patched(quote, offset, (size + 1).to_bytes(4, "little"))
    with pytest.raises(MalformedEvidenceError, match="1 bytes follow its end"):
        parse_quote(quote)


def test_only_zeros_are_trimmed() -> None:
    quote = QUOTES["v4-td10"]
    assert trim_zero_padding(quote.ljust(8000, b"\x00")) == quote
    assert trim_zero_padding(quote) == quote
    with pytest.raises(MalformedEvidenceError, match="not all zero"):
        trim_zero_padding(quote.ljust(7999, b"\x00") + b"x")


@pytest.mark.parametrize(
    ("quote", "reason"),
    [
        (patched(QUOTES["v4-td10"], 0, b"\x06\x00"), "version 6"),
        (patched(QUOTES["v4-td10"], 2, b"\x03\x00"), "attestation key type 3"),
        (patched(QUOTES["v4-td10"], 4, b"\x82"), "TEE type 0x82"),
        (patched(QUOTES["v3-sgx"], 4, b"\x81"), "TEE type 0x81 in version 3"),
        (patched(QUOTES["v4-td10"], 12, bytes(16)), "QE vendor 0{32} is not Intel"),
        (patched(QUOTES["v5-td15"], 48, b"\x04\x00"), "body type 4"),
        (patched(QUOTES["v4-td10"], 48 + 584 + 4 + 128, b"\x05\x00"), "type 5 where version 4 has type 6"),
        (FORGE.quote(td_report(), certification=(9, b"")), "certification data type 9"),
    ],
)
def test_what_nobody_here_knows_is_refused_by_name(quote: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=reason):
        parse_quote(quote)


@pytest.mark.parametrize(
    ("quote", "reason"),
    [
        (patched(QUOTES["v5-td15"], 50, (584).to_bytes(4, "little")), "body of 584 bytes where type 3 has 648"),
        (patched(QUOTES["v5-td15"], 4, b"\x00"), "body type 3 with TEE type 0x0"),
        (patched(QUOTES["v4-td10"], 48 + 584, b"\xff\xff\xff\xff"), "expected at offset"),
        (patched(QUOTES["v4-td10"], 48 + 584 + 4 + 130, b"\x00\x00\x00\x00"), "follow its end"),
    ],
)
def test_sizes_that_disagree_are_refused(quote: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        parse_quote(quote)


def test_identity_is_of_the_signed_part_only() -> None:
    quote = QUOTES["v4-td10"]
    mirrored = patched(quote, 48 + 584 + 4, bytes(64))
    other_chain = FORGE.quote(td_report(), certification=(5, b"another chain"))
    assert parse_quote(mirrored).identity == parse_quote(other_chain).identity == parse_quote(quote).identity
    assert parse_quote(QUOTES["v5-td10"]).identity != parse_quote(quote).identity


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.sampled_from(list(QUOTES.values())), st.integers(0, 1500), st.binary(max_size=12))
def test_overwritten_bytes_raise_nothing_but_our_error(quote: bytes, offset: int, value: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_quote(patched(quote, offset, value))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_quote(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_quote(data)


def test_real_quotes_are_read_whole_and_padding_is_trimmed(vectors: Path) -> None:
    folders = [path.parent for kind in ("tdx", "sgx") for path in sorted((vectors / kind).glob("*/quote.bin"))]
    assert folders
    for folder in folders:
        raw = (folder / "quote.bin").read_bytes()
        expected = json.loads((folder / "expected.json").read_text())
        quote = parse_quote(raw)
        assert len(raw) == expected["facts"]["quote_len"]
        assert quote.header.version == expected["facts"]["quote_version"]
        assert quote.certification_data_type == expected["verify"].get("cert_type", 5)
        for padded in folder.glob("quote_padded_*.dat"):
            assert trim_zero_padding(padded.read_bytes()) == raw
            with pytest.raises(MalformedEvidenceError):
                parse_quote(padded.read_bytes())
