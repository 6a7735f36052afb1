"""Parses the ACPI table that says where firmware keeps a confidential guest's event log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError


class ConfidentialComputingType(IntEnum):
    """ACPI 6.5, section 5.2.34."""

    SEV = 1
    TDX = 2


@dataclass(frozen=True, slots=True)
class CcelTable:
    """Not measured: use it to find the log, never to decide anything."""

    type: ConfidentialComputingType
    subtype: int
    log_size: int
    """Bytes reserved; the events may fill fewer."""
    log_address: int
    """Guest-physical."""


def parse_ccel_table(data: bytes) -> CcelTable:
    """The CC Event Log ACPI table (ACPI 6.5, section 5.2.34; 56 bytes). Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "CCEL table", "little")
    if reader.take(4) != b"CCEL":
        raise MalformedEvidenceError("CCEL table: it does not begin with CCEL")
    if (length := reader.integer(4)) != len(data):
        raise MalformedEvidenceError(f"CCEL table: it says {length} bytes and has {len(data)}")
    if sum(data) % 256:
        raise MalformedEvidenceError("CCEL table: its checksum is wrong")
    reader.take(28)  # revision, checksum, OEM and creator ids
    number = reader.integer(1)
    try:
        kind = ConfidentialComputingType(number)
    except ValueError:
        raise UnsupportedEvidenceError(f"CCEL table: unknown confidential computing type {number}") from None
    subtype = reader.integer(1)
    reader.take(2)
    table = CcelTable(kind, subtype, log_size=reader.integer(8), log_address=reader.integer(8))
    reader.end()
    return table
