"""Reads simulated evidence, whose layout `keep_protocol.simulated` defines."""

from __future__ import annotations

from dataclasses import dataclass

from keep_attestation.cbor import decode_cbor
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_protocol.simulated import (
    FORMAT,
    MEASUREMENT_SIZE,
    REPORT_DATA_SIZE,
    SIGNATURE_SIZE,
    BodyKey,
    encode_signed_part,
    encode_simulated,
)

MAX_SIZE = 512

_KEYS = {BodyKey.FORMAT, BodyKey.REPORT_DATA, BodyKey.MEASUREMENT}


@dataclass(frozen=True, slots=True)
class SimulatedEvidence:
    """What it says; nothing is verified yet, nor can it prove anything when it is."""

    report_data: bytes
    """64 bytes."""
    measurement: bytes
    """32 bytes: SHA-256 over the keep's code, as the keep itself says."""
    signed: bytes
    signature: bytes


def parse_simulated(data: bytes) -> SimulatedEvidence:
    """Raises `MalformedEvidenceError` unless `data` is the one deterministic encoding of simulated evidence."""
    if len(data) > MAX_SIZE:
        raise MalformedEvidenceError(f"simulated evidence has {len(data)} bytes; at most {MAX_SIZE} are read")
    match decode_cbor(data, "simulated evidence"):
        case [bytes() as signed, bytes() as signature] if len(signature) == SIGNATURE_SIZE:
            entries = decode_cbor(signed, "the signed part of simulated evidence")
        case _:
            raise MalformedEvidenceError("simulated evidence is no array of a signed part and a 64-byte signature")
    if not isinstance(entries, dict):
        raise MalformedEvidenceError("the signed part of simulated evidence is no map")
    if entries.get(BodyKey.FORMAT) != FORMAT:
        raise UnsupportedEvidenceError(f"simulated evidence is of format {entries.get(BodyKey.FORMAT)!r}, not {FORMAT}")
    if set(entries) != _KEYS:
        raise MalformedEvidenceError("simulated evidence has another number of members than 3")
    report_data = _octets(entries[BodyKey.REPORT_DATA], REPORT_DATA_SIZE, "report data")
    measurement = _octets(entries[BodyKey.MEASUREMENT], MEASUREMENT_SIZE, "a measurement")
    if encode_simulated(encode_signed_part(report_data, measurement), signature) != data:
        raise MalformedEvidenceError("simulated evidence is not in deterministic CBOR")
    return SimulatedEvidence(report_data, measurement, signed, signature)


def _octets(value: object, size: int, name: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != size:
        raise MalformedEvidenceError(f"simulated evidence needs {name} of {size} bytes")
    return value
