"""Reads PCR values from the JSON that tools print: by register (`7`, `pcr7`), by bank, or as a list."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm

PCR_COUNT = 24


def read_pcr_values(data: bytes) -> dict[int, dict[int, bytes]]:
    """Values by TPM_ALG_ID of their bank and by register; a bank without a name is told by its values' size.

    Raises `MalformedEvidenceError`.
    """
    try:
        document = msgspec.json.decode(data, type=dict[str, str | dict[str, str]] | list[str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvidenceError(f"PCR values: {error}") from None
    if isinstance(document, list):
        document = {str(register): value for register, value in enumerate(document)}
    banks: dict[int, dict[int, bytes]] = {}
    unnamed = {name: value for name, value in document.items() if isinstance(value, str)}
    for values in (unnamed, *(value for value in document.values() if isinstance(value, dict))):
        for register, digest in _registers(values).items():
            bank = _bank_of(digest)
            if register in banks.setdefault(bank, {}):
                raise MalformedEvidenceError(f"PCR values: register {register} has two values in one bank")
            banks[bank][register] = digest
    return banks


def covered_by(
    banks: Mapping[int, Mapping[int, bytes]], selection: Mapping[int, tuple[int, ...]]
) -> dict[int, dict[int, bytes]]:
    """The values that a quote selects: tools print all registers, quotes are over some."""
    return {
        bank: {register: banks[bank][register] for register in registers if register in banks[bank]}
        for bank, registers in selection.items()
        if bank in banks
    }


def _registers(values: Mapping[str, str]) -> dict[int, bytes]:
    try:
        registers = {
            int(name.lower().removeprefix("pcr")): bytes.fromhex(value.removeprefix("0x"))
            for name, value in values.items()
        }
    except ValueError as error:
        raise MalformedEvidenceError(f"PCR values: {error}") from None
    if wrong := [register for register in registers if not 0 <= register < PCR_COUNT]:
        raise MalformedEvidenceError(f"PCR values: there is no register {wrong[0]}")
    return registers


def _bank_of(digest: bytes) -> int:
    for algorithm in HashAlgorithm:
        if algorithm.digest_size == len(digest):
            return int(algorithm)
    raise MalformedEvidenceError(f"PCR values: no bank has digests of {len(digest)} bytes")
