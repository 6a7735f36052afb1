"""Replays event logs: computes the registers that the logged digests, extended in order, leave behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import Event, EventType, HashAlgorithm

PCR_COUNT = 24
RTMR_COUNT = 4

_STARTUP_LOCALITY = b"StartupLocality\x00"
_MRTD_INDEX = 0


def replay(events: Iterable[Event], algorithm: HashAlgorithm) -> dict[int, bytes]:
    """The PCRs of one bank that `events` extend, by number; a PCR that no event names is absent.

    EV_NO_ACTION events are not extended (Platform Firmware Profile 1.06, section 10.4.5); one of them, StartupLocality,
    gives the last byte that PCR 0 began with. Raises `MalformedEvidenceError` for numbers that are no PCR's, an event
    without a digest of `algorithm`, and a StartupLocality that comes too late or twice.
    """
    registers: dict[int, bytes] = {}
    start = bytes(algorithm.digest_size)
    for position, event in enumerate(events):
        if event.type == EventType.EV_NO_ACTION:
            if event.register == 0 and event.data.startswith(_STARTUP_LOCALITY):
                if 0 in registers:
                    raise MalformedEvidenceError(f"event log: event {position} sets PCR 0's locality after its start")
                registers[0] = start[:-1] + bytes([_locality(event.data, position)])
            continue
        if event.register >= PCR_COUNT:
            raise MalformedEvidenceError(f"event log: event {position} is of PCR {event.register}; there is none")
        registers[event.register] = _extend(registers.get(event.register, start), event, algorithm, position)
    return registers


def replay_ccel(events: Iterable[Event]) -> dict[int, bytes]:
    """RTMR0 to RTMR3 after `events` of a TD's log, by number 0 to 3; SHA-384, zero where no event names one.

    Register index 1 to 4 in the log is RTMR0 to RTMR3. Index 0 is MRTD, which is measured when the TD is built and
    never extended: such events say nothing about an RTMR and are passed over (Guest-Host Communication Interface for
    TDX 1.5, section 4.3; UEFI 2.10, section 38.4.1). Raises `MalformedEvidenceError`.
    """
    registers = dict.fromkeys(range(RTMR_COUNT), bytes(HashAlgorithm.SHA384.digest_size))
    for position, event in enumerate(events):
        if event.type == EventType.EV_NO_ACTION or event.register == _MRTD_INDEX:
            continue
        rtmr = event.register - 1
        if rtmr not in registers:
            raise MalformedEvidenceError(f"event log: event {position} has register index {event.register}, not 0 to 4")
        registers[rtmr] = _extend(registers[rtmr], event, HashAlgorithm.SHA384, position)
    return registers


def extend_register(register: bytes, digest: bytes, algorithm: HashAlgorithm) -> bytes:
    """What a PCR or RTMR that holds `register` holds after `digest` was extended into it."""
    return algorithm.digest(register + digest)


def rtmr_mismatch(expected: Mapping[int, bytes], replayed: Mapping[int, bytes]) -> str | None:
    """Names the first register that differs, with both values; None if none does."""
    for number, value in sorted(expected.items()):
        if replayed.get(number) != value:
            came = replayed[number].hex() if number in replayed else "nothing"
            return f"RTMR{number} is {value.hex()} in the quote, the log replays to {came}"
    return None


def _extend(register: bytes, event: Event, algorithm: HashAlgorithm, position: int) -> bytes:
    digest = event.digests.get(algorithm)
    if digest is None:
        raise MalformedEvidenceError(f"event log: event {position} has no {algorithm.name} digest")
    return extend_register(register, digest, algorithm)


def _locality(data: bytes, position: int) -> int:
    """PFP 1.06, section 10.4.5.3: 0, 3 or, after a hardware CRTM, 4; nothing follows it."""
    locality = data[len(_STARTUP_LOCALITY) :]
    if locality not in (b"\x00", b"\x03", b"\x04"):
        raise MalformedEvidenceError(f"event log: event {position} gives startup locality {locality.hex()!r}")
    return locality[0]
