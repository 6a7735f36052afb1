"""Parses and replays dstack's event log, the JSON beside its TDX quotes, of which RTMR3 says what application runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.event_log.registers import RTMR_COUNT, extend_register

MAX_LOG_SIZE = 1024 * 1024
DSTACK_EVENT_TYPE = 0x0800_0001
"""Of events that dstack's guest extends into RTMR3."""


@dataclass(frozen=True, slots=True)
class DstackEvent:
    """As the log says; `name` and `payload` of dstack's own events are those that the digest is over."""

    rtmr: int
    type: int
    digest: bytes
    """SHA-384."""
    name: str
    payload: bytes


class _Entry(msgspec.Struct, frozen=True):
    imr: int
    event_type: int
    digest: str
    event: str
    event_payload: str


def parse_dstack_log(data: bytes) -> tuple[DstackEvent, ...]:
    """The events in `data`, a JSON array. Raises `MalformedEvidenceError`.

    The digest of an event of dstack's own (RTMR3) must be SHA-384 over its type, name and payload, or the log is
    refused: so name and payload may be believed once `replay_dstack_log` gives the quoted register.
    """
    if len(data) > MAX_LOG_SIZE:
        raise MalformedEvidenceError(f"dstack event log: {len(data)} bytes; at most {MAX_LOG_SIZE} are read")
    try:
        entries = msgspec.json.decode(data, type=tuple[_Entry, ...])
        events = tuple(
            DstackEvent(
                rtmr=entry.imr,
                type=entry.event_type,
                digest=bytes.fromhex(entry.digest),
                name=entry.event,
                payload=bytes.fromhex(entry.event_payload),
            )
            for entry in entries
        )
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"dstack event log: {error}") from None
    for position, event in enumerate(events):
        if not 0 <= event.rtmr < RTMR_COUNT or len(event.digest) != HashAlgorithm.SHA384.digest_size:
            raise MalformedEvidenceError(f"dstack event log: event {position} has no RTMR or no SHA-384 digest")
        if event.type == DSTACK_EVENT_TYPE and event.digest != _own_digest(event):
            raise MalformedEvidenceError(f"dstack event log: event {position} ({event.name!r}) has another's digest")
        if event.rtmr == 3 and event.type != DSTACK_EVENT_TYPE:
            raise MalformedEvidenceError(f"dstack event log: event {position} in RTMR3 has type {event.type:#x}")
    return events


def replay_dstack_log(events: Iterable[DstackEvent]) -> dict[int, bytes]:
    """RTMR0 to RTMR3 after `events`, by number."""
    registers = dict.fromkeys(range(RTMR_COUNT), bytes(HashAlgorithm.SHA384.digest_size))
    for event in events:
        registers[event.rtmr] = extend_register(registers[event.rtmr], event.digest, HashAlgorithm.SHA384)
    return registers


def _own_digest(event: DstackEvent) -> bytes:
    """dstack, cc-eventlog: SHA-384(type as u32 little endian ‖ ":" ‖ name ‖ ":" ‖ payload)."""
    return hashlib.sha384(b":".join((event.type.to_bytes(4, "little"), event.name.encode(), event.payload))).digest()
