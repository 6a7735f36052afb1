"""Writes event logs in both TCG formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keep_attestation.event_log import EventType, HashAlgorithm

SHA384_BANK: Mapping[int, int] = {HashAlgorithm.SHA384: HashAlgorithm.SHA384.digest_size}
LogEvent = tuple[int, int, Mapping[int, bytes], bytes]
"""Register, type, digests, data."""


def sha1_event(register: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    return _u32(register) + _u32(event_type) + digest + _u32(len(data)) + data


def agile_event(register: int, event_type: int, digests: Mapping[int, bytes], data: bytes) -> bytes:
    listed = b"".join(algorithm.to_bytes(2, "little") + digest for algorithm, digest in digests.items())
    return _u32(register) + _u32(event_type) + _u32(len(digests)) + listed + _u32(len(data)) + data


def agile_header(sizes: Mapping[int, int] = SHA384_BANK, *, vendor: bytes = b"") -> bytes:
    banks = b"".join(number.to_bytes(2, "little") + size.to_bytes(2, "little") for number, size in sizes.items())
    specification = b"Spec ID Event03\x00" + bytes(4) + b"\x00\x02\x00\x02" + _u32(len(sizes)) + banks
    return sha1_event(0, EventType.EV_NO_ACTION, bytes(20), specification + bytes([len(vendor)]) + vendor)


def agile_log(events: Iterable[LogEvent], sizes: Mapping[int, int] = SHA384_BANK) -> bytes:
    return agile_header(sizes) + b"".join(agile_event(*event) for event in events)


def measured(register: int, event_type: int, data: bytes, *algorithms: HashAlgorithm) -> LogEvent:
    """An event whose digests are over its data; SHA-384 unless others are named."""
    banks = algorithms or (HashAlgorithm.SHA384,)
    return register, event_type, {algorithm: algorithm.digest(data) for algorithm in banks}, data


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
