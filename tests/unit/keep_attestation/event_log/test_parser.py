"""Whether event logs of both formats are read, and malformed ones refused with our own error only."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log import EventType, HashAlgorithm, parse_tcg_log
from tests.unit.keep_attestation.event_log.forge import agile_event, agile_header, agile_log, measured, sha1_event

LOG = agile_log([measured(1, EventType.EV_SEPARATOR, bytes(4)), measured(2, EventType.EV_EFI_ACTION, b"Calling EFI")])


def test_a_crypto_agile_log_gives_header_and_events_in_order() -> None:
    header, separator, action = parse_tcg_log(LOG)
    assert header.type is EventType.EV_NO_ACTION
    assert (separator.register, separator.type, separator.data) == (1, EventType.EV_SEPARATOR, bytes(4))
    assert action.digests == {HashAlgorithm.SHA384: HashAlgorithm.SHA384.digest(b"Calling EFI")}


def test_a_log_without_the_header_is_of_the_format_with_sha1_only() -> None:
    digest = HashAlgorithm.SHA1.digest(b"version 1")
    (event,) = parse_tcg_log(sha1_event(0, EventType.EV_S_CRTM_VERSION, digest, b"version 1"))
    assert event.digests == {HashAlgorithm.SHA1: digest}


def test_an_unknown_type_stays_a_number() -> None:
    event = parse_tcg_log(agile_log([measured(1, 0xA0000001, b"vendor")]))[1]
    assert event.type == 0xA0000001
    assert not isinstance(event.type, EventType)


def test_banks_of_unknown_algorithms_are_read_by_the_size_in_the_header() -> None:
    log = agile_header({0x12: 32, HashAlgorithm.SHA1: 20}) + agile_event(
        0, EventType.EV_POST_CODE, {0x12: b"s" * 32, HashAlgorithm.SHA1: b"d" * 20}, b""
    )
    assert parse_tcg_log(log)[1].digests == {0x12: b"s" * 32, HashAlgorithm.SHA1: b"d" * 20}


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_unused_area_after_the_events_is_passed_over(filler: bytes) -> None:
    assert parse_tcg_log(LOG + filler * 4096) == parse_tcg_log(LOG)


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_anything_in_the_unused_area_is_refused(filler: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_tcg_log(LOG + filler * 64 + b"hidden")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_log_of_the_other_format_than_demanded_is_refused_by_name(wanted: bool) -> None:
    log = sha1_event(0, EventType.EV_SEPARATOR, bytes(20), b"") if wanted else LOG
    with pytest.raises(UnsupportedEvidenceError, match="format"):
        parse_tcg_log(log, crypto_agile=wanted)


SHA384 = HashAlgorithm.SHA384
DIGEST = bytes(48)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"", "are left"),
        (agile_header({}), "hash algorithms"),
        (agile_header({SHA384: 32}), "SHA384 digest"),
        (agile_header() + agile_event(1, 4, {HashAlgorithm.SHA256: bytes(32)}, b""), "header omits"),
        (agile_header() + agile_event(1, 4, {SHA384: DIGEST, 0x0B: bytes(32)}, b""), "names 1 banks"),
        (agile_header() + (b"\x01\0\0\0\x04\0\0\0" + b"\xff" * 4), "digests"),
        (agile_header() + agile_event(1, 4, {SHA384: DIGEST}, b"")[:-4] + b"\xff" * 4, "are left"),
        (agile_header({SHA384: 48, 0x0B: 32}) + b"\x01\0\0\0\x04\0\0\0\x02\0\0\0" + (b"\x0c\0" + DIGEST) * 2, "two"),
        (sha1_event(0, 3, bytes(20), b"Spec ID Event03\x00" + bytes(8) + b"\x01\0\0\0\x0c\x00\x30\x00\x00\x00"), "end"),
    ],
)
def test_a_malformed_log_is_refused_with_the_reason(log: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        parse_tcg_log(log)


def test_a_log_cut_anywhere_inside_an_event_is_refused() -> None:
    whole = {len(agile_header()), len(LOG), len(agile_header()) + len(agile_event(1, 4, {SHA384: DIGEST}, bytes(4)))}
    for size in range(len(LOG)):
        if size not in whole:
            with pytest.raises(MalformedEvidenceError):
                parse_tcg_log(LOG[:size])


def test_an_oversized_log_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_tcg_log(bytes(5 * 1024 * 1024))


def test_a_log_of_endless_events_is_refused() -> None:
    tiny = sha1_event(1, 4, bytes(20), b"")
    with pytest.raises(MalformedEvidenceError, match="more than"):
        parse_tcg_log(tiny * 20_000)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_our_error(data: bytes, headed: bool) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_tcg_log(agile_header() + data if headed else data)
