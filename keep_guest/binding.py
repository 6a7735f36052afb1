"""Ties the spec that the host hands over to what the machine was launched for, before anything is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from app_loader.attesters.interface import Statement
from app_loader.attesters.selection import find_attester
from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import DeviceTransport
from app_loader.attesters.tpm_wire import Algorithm, TpmError
from app_loader.errors import AttesterError
from keep_guest.errors import BindingError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import ENCLAVE_SPEC_PCR, SPEC_PCR

_TPM: Final = Path("/dev/tpmrm0")

_SNP_HOST_DATA: Final = slice(0xC0, 0xE0)
"""SEV-SNP ABI 1.58, table 23."""
_TDX_BODY: Final = {4: 48, 5: 54}
"""Where the TD's report begins in a quote, by the quote's version: TDX DCAP quoting library, A.3."""
_TDX_MR_CONFIG_ID: Final = slice(184, 232)
"""In that report."""


def extend_spec(digest: str, device: Path = _TPM) -> bool:
    """Extend the spec's digest into the TPM's PCR for it; whether there is a TPM. Raises `BindingError`."""
    if not device.exists():
        return False
    try:
        with Tpm(DeviceTransport(str(device))) as tpm:
            tpm.extend_pcr(SPEC_PCR, {Algorithm.SHA256: bytes.fromhex(digest)})
    except (TpmError, OSError) as error:
        raise BindingError(f"the TPM does not take the spec's digest: {error}") from error
    return True


def extend_spec_in_enclave(digest: str) -> None:
    """The same by a Nitro enclave's own module, whose PCR is then locked. Raises `BindingError`."""
    # Only here: no other machine needs it.
    from app_loader.attesters.nsm import extend_and_lock

    try:
        extend_and_lock(ENCLAVE_SPEC_PCR, bytes.fromhex(digest))
    except AttesterError as error:
        raise BindingError(f"the enclave does not take the spec's digest: {error}") from error


def check_launch(kind: EvidenceKind, digest: str) -> None:
    """Refuse a spec whose digest is not what the hardware says the machine was launched with. Raises `BindingError`.

    SNP has it in HOST_DATA, TDX in MRCONFIGID, followed by zeros.
    """
    try:
        evidence = find_attester(kind, {}).attest(Statement(claims=b"", spki=b"", nonce=None)).evidence
    except AttesterError as error:
        raise BindingError(f"the hardware does not say what the machine was launched with: {error}") from error
    launched = evidence[_SNP_HOST_DATA] if kind is EvidenceKind.SNP else _td_report(evidence)[_TDX_MR_CONFIG_ID]
    expected = bytes.fromhex(digest).ljust(len(launched), b"\0")
    if not launched or launched != expected:
        raise BindingError(
            f"the machine was launched for the spec {launched.hex() or 'nothing'}, and the host hands over {digest}"
        )


def _td_report(quote: bytes) -> bytes:
    version = int.from_bytes(quote[:2], "little")
    if version not in _TDX_BODY:
        raise BindingError(f"the quote has version {version}, known are 4 and 5")
    return quote[_TDX_BODY[version] :]
