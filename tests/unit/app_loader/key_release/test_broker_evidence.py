"""Evidence in the JSON of Trustee's verifiers: every byte of real reports is where they look for it."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app_loader.attesters.interface import Attestation
from app_loader.key_release.broker_evidence import broker_evidence
from app_loader.key_release.errors import KeyReleaseError
from keep_protocol.evidence import EvidenceKind

DIGEST = bytes(48)


def reports() -> Iterator[Path]:
    folder = os.environ.get("WASMKEEP_VECTORS")
    yield from sorted(Path(folder).glob("snp/*/report.bin")) if folder else ()


def tcb(members: Mapping[str, int | None], *, turin: bool) -> bytes:
    order = ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode")
    legacy = ("bootloader", "tee", None, None, None, None, "snp", "microcode")
    assert turin or members["fmc"] is None
    return bytes(0 if name is None else members[name] or 0 for name in (order if turin else legacy))


def written(report: Mapping[str, Any], *, turin: bool) -> bytes:
    """A report's bytes from its JSON, as the crate `sev` writes them before a signature is checked."""

    def firmware(name: str) -> bytes:
        return bytes((report[name]["build"], report[name]["minor"], report[name]["major"], 0))

    processor = [report[name] or 0 for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")]
    head = struct.pack("<IIQ", report["version"], report["guest_svn"], report["policy"])
    body = [
        *(head, bytes(report["family_id"]), bytes(report["image_id"])),
        *(struct.pack("<II", report["vmpl"], report["sig_algo"]), tcb(report["current_tcb"], turin=turin)),
        struct.pack("<QII", report["plat_info"], report["key_info"], 0),
        *(bytes(report[name]) for name in ("report_data", "measurement", "host_data", "id_key_digest")),
        *(bytes(report[name]) for name in ("author_key_digest", "report_id", "report_id_ma")),
        *(tcb(report["reported_tcb"], turin=turin), bytes(processor), bytes(21), bytes(report["chip_id"])),
        *(tcb(report["committed_tcb"], turin=turin), firmware("current"), firmware("committed")),
        tcb(report["launch_tcb"], turin=turin),
        struct.pack("<QQ", report["launch_mit_vector"] or 0, report["current_mit_vector"] or 0),
        *(bytes(152), bytes(report["signature"]["r"]), bytes(report["signature"]["s"]), bytes(368)),
    ]
    return b"".join(body)


def test_real_snp_reports_are_the_same_after_their_way_through_json() -> None:
    found = list(reports())
    if not found:
        pytest.skip("WASMKEEP_VECTORS names no folder with attestation vectors")
    for path in found:
        report = path.read_bytes()
        evidence = broker_evidence(EvidenceKind.SNP, Attestation(report), DIGEST)
        assert evidence["cert_chain"] is None
        turin = "turin" in path.parent.name
        assert (evidence["attestation_report"]["current_tcb"]["fmc"] is not None) == turin
        assert written(evidence["attestation_report"], turin=turin) == report, path


def test_other_kinds_are_base64() -> None:
    assert broker_evidence(EvidenceKind.TDX, Attestation(b"quote"), DIGEST) == {
        "cc_eventlog": None,
        "quote": base64.b64encode(b"quote").decode(),
    }
    sample = broker_evidence(EvidenceKind.SIMULATED, Attestation(b"signed"), DIGEST)
    # Trustee's own verifier of samples compares the digest as it is, without zeros behind it.
    assert base64.b64decode(sample["report_data"]) == DIGEST
    assert base64.b64decode(sample["wasmkeep-simulated"]) == b"signed"


def test_what_no_broker_knows_or_no_report_is_refused() -> None:
    with pytest.raises(KeyReleaseError, match="nitro"):
        broker_evidence(EvidenceKind.NITRO, Attestation(b""), DIGEST)
    with pytest.raises(KeyReleaseError, match="1183 bytes, not 1184"):
        broker_evidence(EvidenceKind.SNP, Attestation(bytes(1183)), DIGEST)
