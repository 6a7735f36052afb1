"""Tells whose event data may be believed: a replayed log proves its digests, not the data beside them.

An attacker can leave every digest as it is and rewrite the data (a command line, a boot variable): the log still
replays. Where the profile defines the digest over the data, the data is proved by hashing it.
"""

from __future__ import annotations

from enum import StrEnum

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import Event, EventType, HashAlgorithm

_OVER_DATA = frozenset(
    {
        EventType.EV_SEPARATOR,
        EventType.EV_ACTION,
        EventType.EV_EVENT_TAG,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_BOOT,
        EventType.EV_EFI_VARIABLE_BOOT2,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
        EventType.EV_EFI_GPT_EVENT,
        EventType.EV_EFI_ACTION,
    }
)
"""Types whose digest the PC Client Platform Firmware Profile 1.06 (section 10.4.1, table 27) defines over the data."""

_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")


class Explanation(StrEnum):
    """What an event's data says about its digests."""

    EXPLAINED = "explained"
    """Every digest is over the data: the data is as trustworthy as the digest."""
    CONTRADICTED = "contradicted"
    """The digest should be over the data and is not: somebody changed one of them."""
    OPAQUE = "opaque"
    """The digest is over something else (an image, tables); the data is only a hint."""


def explain(event: Event) -> Explanation:
    """Whether the data of `event` is what was measured. EV_NO_ACTION is opaque: it is not extended."""
    known = frozenset(number for number in event.digests if HashAlgorithm.known(number) is not None)
    explained = explained_digests(event)
    if known and explained == known:
        return Explanation.EXPLAINED
    return Explanation.CONTRADICTED if event.type in _OVER_DATA else Explanation.OPAQUE


def explained_digests(event: Event) -> frozenset[int]:
    """Algorithms (TPM_ALG_ID) whose digest is over the data in one of the ways that the event's type admits.

    A digest that one way explains in one bank and another way in another bank explains neither.
    """
    return _explanation(event)[1]


def measured_data(event: Event) -> bytes | None:
    """The part of the data that every digest is over, without what the loader wrote around it; None if there is none.

    Read this and not `event.data`: even of an explained event a prefix or a last byte may not be measured.
    """
    return _explanation(event)[0] if explain(event) is Explanation.EXPLAINED else None


def _explanation(event: Event) -> tuple[bytes, frozenset[int]]:
    best: tuple[bytes, frozenset[int]] = (b"", frozenset())
    for candidate in _measured_candidates(event):
        explained = frozenset(
            number
            for number, digest in event.digests.items()
            if (algorithm := HashAlgorithm.known(number)) is not None and algorithm.digest(candidate) == digest
        )
        if len(explained) > len(best[1]):
            best = (candidate, explained)
    return best


def _measured_candidates(event: Event) -> tuple[bytes, ...]:
    data = event.data
    match event.type:
        case EventType.EV_EFI_VARIABLE_BOOT:
            # Firmware up to PFP 1.04 measures the variable's value alone, newer the structure.
            value = _variable_value(data)
            return (data,) if value is None else (data, value)
        case EventType.EV_EFI_VARIABLE_AUTHORITY:
            # shim up to 15 logs one byte more than it measures.
            return (data, data[:-1])
        case EventType.EV_IPL:
            # Loaders differ: systemd-stub measures the data, GRUB the string after its own prefix and without the NUL.
            text = data.removesuffix(b"\x00")
            commands = tuple(text.removeprefix(prefix) for prefix in _GRUB_PREFIXES if text.startswith(prefix))
            return (data, text, *commands)
        case kind if kind in _OVER_DATA:
            return (data,)
        case _:
            return ()


def _variable_value(data: bytes) -> bytes | None:
    """VariableData of a UEFI_VARIABLE_DATA (PFP 1.06, section 10.4.2.6); None if `data` is none."""
    reader = ByteReader(data, "UEFI_VARIABLE_DATA", "little")
    try:
        reader.take(16)  # VariableName, a GUID
        characters, size = reader.integer(8), reader.integer(8)
        reader.take(2 * characters)
        value = reader.take(size)
        reader.end()
    except MalformedEvidenceError:
        return None
    return value
