"""Evidence in the JSON that Trustee's verifiers read, as guest-components' attesters write it.

https://github.com/confidential-containers/guest-components/tree/main/attestation-agent/attester/src
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, Final

from app_loader.attesters.interface import Attestation
from app_loader.key_release.errors import KeyReleaseError
from keep_protocol.evidence import EvidenceKind

_SNP_REPORT_SIZE: Final = 0x4A0
_SIGNATURE_PART: Final = 72
_TURIN_FAMILY: Final = 0x1A


def broker_evidence(kind: EvidenceKind, made: Attestation, digest: bytes) -> dict[str, Any]:
    """The `primary_evidence` of an attestation over `digest`. Raises `KeyReleaseError`."""
    match kind:
        case EvidenceKind.SNP:
            # Without a chain the broker fetches the VCEK itself.
            return {"attestation_report": _snp_report(made.evidence), "cert_chain": None}
        case EvidenceKind.TDX:
            return {"cc_eventlog": None, "quote": _base64(made.evidence)}
        case EvidenceKind.TPM:
            # Trustee's verifier knows keys for RSASSA alone, and ours sign with ECDSA: so our own form, whole.
            return {"wasmkeep-tpm": _base64(made.evidence)}
        case EvidenceKind.SIMULATED:
            return {"svn": "1", "report_data": _base64(digest), "wasmkeep-simulated": _base64(made.evidence)}
        case _:
            raise KeyReleaseError(f"key brokers know no evidence of kind {kind}")


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode()


def _snp_report(report: bytes) -> dict[str, Any]:
    """A report as the crate `sev` serialises its `AttestationReport`, since version 6; offsets are AMD's (56860)."""
    if len(report) != _SNP_REPORT_SIZE:
        raise KeyReleaseError(f"the SNP report has {len(report)} bytes, not {_SNP_REPORT_SIZE}")

    def integer(form: str, offset: int) -> int:
        value: int = struct.unpack_from(form, report, offset)[0]
        return value

    def octets(offset: int, size: int) -> list[int]:
        return list(report[offset : offset + size])

    version = integer("<I", 0x00)
    has_processor = version >= 3
    has_mitigations = version >= 5
    # Reports before version 3 say nothing of the processor; Turin's chip ids have 8 bytes, the rest is zero.
    turin = report[0x188] >= _TURIN_FAMILY if has_processor else not any(report[0x1A8:0x1E0])

    def tcb(offset: int) -> dict[str, int | None]:
        if turin:
            fmc, bootloader, tee, snp = report[offset : offset + 4]
            return {"fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": report[offset + 7]}
        bootloader, tee = report[offset : offset + 2]
        return {
            "fmc": None,
            "bootloader": bootloader,
            "tee": tee,
            "snp": report[offset + 6],
            "microcode": report[offset + 7],
        }

    def firmware(offset: int) -> dict[str, int]:
        build, minor, major = report[offset : offset + 3]
        return {"major": major, "minor": minor, "build": build}

    return {
        "version": version,
        "guest_svn": integer("<I", 0x04),
        "policy": integer("<Q", 0x08),
        "family_id": octets(0x10, 16),
        "image_id": octets(0x20, 16),
        "vmpl": integer("<I", 0x30),
        "sig_algo": integer("<I", 0x34),
        "current_tcb": tcb(0x38),
        "plat_info": integer("<Q", 0x40),
        "key_info": integer("<I", 0x48),
        "report_data": octets(0x50, 64),
        "measurement": octets(0x90, 48),
        "host_data": octets(0xC0, 32),
        "id_key_digest": octets(0xE0, 48),
        "author_key_digest": octets(0x110, 48),
        "report_id": octets(0x140, 32),
        "report_id_ma": octets(0x160, 32),
        "reported_tcb": tcb(0x180),
        "cpuid_fam_id": report[0x188] if has_processor else None,
        "cpuid_mod_id": report[0x189] if has_processor else None,
        "cpuid_step": report[0x18A] if has_processor else None,
        "chip_id": octets(0x1A0, 64),
        "committed_tcb": tcb(0x1E0),
        "current": firmware(0x1E8),
        "committed": firmware(0x1EC),
        "launch_tcb": tcb(0x1F0),
        "launch_mit_vector": integer("<Q", 0x1F8) if has_mitigations else None,
        "current_mit_vector": integer("<Q", 0x200) if has_mitigations else None,
        "signature": {"r": octets(0x2A0, _SIGNATURE_PART), "s": octets(0x2E8, _SIGNATURE_PART)},
    }
