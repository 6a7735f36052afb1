"""Finds the root keys of a keep: the hardware's where there is any, else the host's."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path

from app_loader.attesters.interface import Attester
from app_loader.sealing.errors import SealingError, SealingUnavailableError
from app_loader.sealing.host_key import HostKey, read_share
from app_loader.sealing.root_keys import KeyRing
from app_loader.sealing.sealer import Sealer
from keep_protocol.evidence import EvidenceKind
from keep_protocol.spec import KeepSpec, canonical
from keep_protocol.states import Backend


def find_sealer(
    spec: KeepSpec, keep: str, state: Path, handed_over: Sequence[str], attester: Attester | None = None
) -> Sealer:
    """What this keep seals with. `handed_over` are keys of the host in base64, the newest first.

    A keep that proves itself by hardware never uses the host's. Raises `SealingError`.
    """
    if spec.backend is Backend.SNP:
        from app_loader.sealing.snp_key import SnpDerivedKey

        return Sealer(KeyRing([SnpDerivedKey(keep, hashlib.sha256(canonical(spec)).digest())]))
    if spec.backend.is_tee:
        raise SealingUnavailableError(f"the hardware of a {spec.backend} keep gives its guests no key to seal with")
    if spec.evidence is EvidenceKind.TPM:
        return _tpm_sealer(attester, state, keep, machine=spec.backend is Backend.QEMU_VTPM)
    if not handed_over:
        raise SealingUnavailableError("the host handed no key over; restart the keep, if its manager is a newer one")
    share = read_share(state)
    return Sealer(KeyRing([HostKey(_decoded(key), share, keep) for key in handed_over]))


def _tpm_sealer(attester: Attester | None, state: Path, keep: str, *, machine: bool) -> Sealer:
    from app_loader.attesters.selection import TpmQuoter
    from app_loader.sealing.tpm_counter import TpmCounter
    from app_loader.sealing.tpm_key import BOOT_REGISTERS, MACHINE_REGISTERS, TpmSealedKey

    if not isinstance(attester, TpmQuoter):
        raise SealingUnavailableError("this keep was given no TPM")
    with attester.borrowed() as tpm:
        key = TpmSealedKey(tpm, state, keep, MACHINE_REGISTERS if machine else BOOT_REGISTERS)
    return Sealer(KeyRing([key]), counter=TpmCounter(attester.borrowed, key, state, keep))


def _decoded(key: str) -> bytes:
    try:
        return binascii.a2b_base64(key, strict_mode=True)
    except ValueError:
        raise SealingError("a key that the host handed over is not base64") from None
