"""Parses event logs in both formats of the TCG PC Client Platform Firmware Profile (1.06, section 10)."""

from __future__ import annotations

from collections.abc import Mapping

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log.event import Event, EventType, HashAlgorithm

MAX_LOG_SIZE = 4 * 1024 * 1024
"""Bytes. Firmware reserves 64 KiB to 256 KiB."""
MAX_EVENTS = 16 * 1024

_CRYPTO_AGILE = b"Spec ID Event03\x00"


def parse_tcg_log(data: bytes, *, crypto_agile: bool | None = None) -> tuple[Event, ...]:
    """The events in `data`, the header event first.

    `crypto_agile` demands the format with a digest for each bank (TCG_PCR_EVENT2, begins with Spec ID Event03) or, when
    False, the older one with SHA-1 only (TCG_PCR_EVENT); None takes what the header says. What follows the last event
    must be unused area: zeros only or 0xFF only. Raises `MalformedEvidenceError`.
    """
    if len(data) > MAX_LOG_SIZE:
        raise MalformedEvidenceError(f"event log: {len(data)} bytes; at most {MAX_LOG_SIZE} are read")
    reader = ByteReader(data, "event log", "little")
    header = _sha1_event(reader)
    found = header.type == EventType.EV_NO_ACTION and header.data.startswith(_CRYPTO_AGILE)
    if crypto_agile is not None and crypto_agile != found:
        formats = {True: "crypto-agile", False: "SHA-1-only"}
        raise UnsupportedEvidenceError(
            f"event log: it is of the {formats[found]} format, {formats[crypto_agile]} demanded"
        )
    sizes = _digest_sizes(header.data) if found else None
    events = [header]
    while not _is_unused(data, reader.offset):
        if len(events) == MAX_EVENTS:
            raise MalformedEvidenceError(f"event log: it has more than {MAX_EVENTS} events")
        events.append(_sha1_event(reader) if sizes is None else _agile_event(reader, sizes))
    return tuple(events)


def _is_unused(data: bytes, offset: int) -> bool:
    # Cheap first: a well-formed event begins with a register number, which is neither 0xFFFFFFFF nor, with type and
    # digests, eight zeros, except for EV_PREBOOT_CERT in PCR 0, which is reserved.
    if data[offset : offset + 8].strip(b"\x00") and data[offset : offset + 4].strip(b"\xff"):
        return False
    rest = data[offset:]
    return not rest.strip(b"\x00") or not rest.strip(b"\xff")


def _sha1_event(reader: ByteReader) -> Event:
    register = reader.integer(4)
    event_type = _event_type(reader.integer(4))
    digest = reader.take(HashAlgorithm.SHA1.digest_size)
    return Event(register, event_type, {HashAlgorithm.SHA1: digest}, reader.sized(4))


def _agile_event(reader: ByteReader, sizes: Mapping[int, int]) -> Event:
    register = reader.integer(4)
    event_type = _event_type(reader.integer(4))
    digests: dict[int, bytes] = {}
    count = reader.integer(4)
    if count > len(sizes):
        raise MalformedEvidenceError(f"event log: an event has {count} digests; the header names {len(sizes)} banks")
    for _ in range(count):
        algorithm = reader.integer(2)
        if algorithm not in sizes:
            raise MalformedEvidenceError(f"event log: a digest of algorithm {algorithm:#06x}, which the header omits")
        if algorithm in digests:
            raise MalformedEvidenceError(f"event log: an event has two digests of algorithm {algorithm:#06x}")
        digests[algorithm] = reader.take(sizes[algorithm])
    return Event(register, event_type, digests, reader.sized(4))


def _event_type(number: int) -> EventType | int:
    try:
        return EventType(number)
    except ValueError:
        return number


def _digest_sizes(specification: bytes) -> Mapping[int, int]:
    """Bytes of a digest by TPM_ALG_ID, from TCG_EfiSpecIDEvent (section 10.4.5.1)."""
    reader = ByteReader(specification, "event log header", "little")
    reader.take(len(_CRYPTO_AGILE))
    reader.take(4 + 1 + 1 + 1 + 1)  # platformClass, specVersionMinor, specVersionMajor, specErrata, uintnSize
    count = reader.integer(4)
    if not 1 <= count <= 16:
        raise MalformedEvidenceError(f"event log header: {count} hash algorithms; 1 to 16 are read")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = reader.integer(2), reader.integer(2)
        if algorithm in sizes:
            raise MalformedEvidenceError(f"event log header: algorithm {algorithm:#06x} twice")
        known = HashAlgorithm.known(algorithm)
        if known is not None and size != known.digest_size:
            raise MalformedEvidenceError(f"event log header: {size} bytes for a {known.name} digest")
        sizes[algorithm] = size
    reader.sized(1)  # vendorInfo
    reader.end()
    return sizes
