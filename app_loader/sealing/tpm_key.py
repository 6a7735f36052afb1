"""A root key that a TPM has sealed: it comes out on the same machine, booted the same way, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from app_loader.attesters.tpm_commands import OWNER, CreatedObject, Tpm
from app_loader.attesters.tpm_templates import STORAGE_KEY_TEMPLATE
from app_loader.attesters.tpm_wire import Algorithm, PcrSelection, TpmError
from app_loader.libcrypto_aead import hkdf_sha256
from app_loader.sealing.errors import SealingError
from app_loader.sealing.root_keys import ROOT_KEY_SIZE, check_selectors, key_id
from app_loader.sealing.stored import read_or_make
from keep_protocol.guest_control import SPEC_PCR
from keep_protocol.sealing_api import KeyKind, Selector
from keep_protocol.strict_json import decode_strictly

BOOT_REGISTERS: Final[PcrSelection] = {Algorithm.SHA256: tuple(range(8))}
"""Firmware, its settings and the boot loader; what later software extends changes while a machine runs."""

MACHINE_REGISTERS: Final[PcrSelection] = {Algorithm.SHA256: (4, 9, SPEC_PCR)}
"""Of a virtual machine: kernel, command line and initramfs, spec. Those before are of its host's firmware."""

_FILE: Final = "sealing-tpm"
_ALWAYS: Final = (Selector.CHIP, Selector.KEEP, Selector.MEASUREMENT)
_INFO: Final = b"keep-seal-v1|tpm|"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What TPM2_Create gave; neither part is a secret."""

    private: bytes
    public: bytes


class TpmSealedKey:
    """A random key, sealed under a policy over the boot registers. Needs its TPM only while it is made here."""

    kind = KeyKind.TPM
    usual: tuple[Selector, ...] = _ALWAYS

    def __init__(self, tpm: Tpm, state: Path, keep: str, registers: PcrSelection = BOOT_REGISTERS) -> None:
        """Seals a new key to `registers` and stores it in `state`, or unseals the one there. Raises `SealingError`."""
        try:
            parent, _ = tpm.create_primary(OWNER, STORAGE_KEY_TEMPLATE)
            try:
                stored = read_or_make(state / _FILE, lambda: _sealed(tpm, parent, registers))
                secret = _unsealed(tpm, parent, stored, registers)
            finally:
                tpm.flush(parent)
        except (TpmError, OSError) as error:
            changes = "the image and the spec" if registers is MACHINE_REGISTERS else "firmware"
            raise SealingError(f"the TPM does not give the key: {error}; its registers change with {changes}") from None
        self._secret = hkdf_sha256(secret, salt=b"", info=_INFO + keep.encode())
        self.id = key_id(self._secret)

    def derive(self, selectors: tuple[Selector, ...]) -> bytes:
        check_selectors(self.kind, frozenset(_ALWAYS), selectors)
        if tuple(sorted(selectors)) != _ALWAYS:
            raise SealingError(f"keys of kind {self.kind} are always bound to all of {', '.join(_ALWAYS)}")
        return self._secret


def _sealed(tpm: Tpm, parent: int, registers: PcrSelection) -> bytes:
    created = tpm.seal(parent, os.urandom(ROOT_KEY_SIZE), tpm.pcr_policy(registers))
    return msgspec.json.encode(_Stored(created.private, created.public))


def _unsealed(tpm: Tpm, parent: int, raw: bytes, registers: PcrSelection) -> bytes:
    try:
        stored = decode_strictly(raw, _Stored)
    except msgspec.DecodeError as error:
        raise SealingError(f"{_FILE} is damaged: {error}") from None
    sealed = tpm.load(parent, CreatedObject(stored.private, stored.public))
    try:
        return tpm.unseal(sealed, registers)
    finally:
        tpm.flush(sealed)
