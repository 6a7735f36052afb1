"""Whether the ACPI table of the event log is read, and nothing else taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log import parse_ccel_table
from keep_attestation.event_log.ccel_table import ConfidentialComputingType


def table(*, kind: int = 2, length: int = 56) -> bytes:
    body = b"CCEL" + length.to_bytes(4, "little") + b"\x01\x00" + b"INTEL EDK2    " + bytes(12) + bytes([kind, 0, 0, 0])
    body += (0x40000).to_bytes(8, "little") + (0xBEDBF000).to_bytes(8, "little")
    return body[:9] + bytes([-sum(body) % 256]) + body[10:]


def test_size_and_address_of_the_log_are_read() -> None:
    found = parse_ccel_table(table())
    assert (found.type, found.log_size, found.log_address) == (ConfidentialComputingType.TDX, 0x40000, 0xBEDBF000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"APIC" + table()[4:], "begin with CCEL"),
        (table(length=57), "says 57 bytes"),
        (table() + b"\x00", "says 56 bytes"),
        (table()[:20] + b"\xff" + table()[21:], "checksum"),
        (table(kind=9), "type 9"),
        (b"", "are left"),
    ],
)
def test_another_or_a_changed_table_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        parse_ccel_table(data)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_nothing_but_our_error(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_ccel_table(data)


def test_real_tables_are_of_tdx_and_reserve_room_for_the_log_beside_them(vectors: Path) -> None:
    tables = list((vectors / "tdx").glob("*/ccel_table.dat"))
    assert tables
    for path in tables:
        found = parse_ccel_table(path.read_bytes())
        assert found.type is ConfidentialComputingType.TDX
        assert found.log_size >= (path.parent / "ccel_data.bin").stat().st_size
