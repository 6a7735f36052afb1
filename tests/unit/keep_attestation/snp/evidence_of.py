"""Real SNP evidence from vectors' folders, and verdicts over it."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS, Anchors
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verdict import Verdict
from keep_protocol.evidence import EvidenceKind

CERTIFICATE_FILES = ("vcek.der", "vlek.der", "ask.der", "asvk.der", "ark.der")


def vector_folders() -> list[Any]:
    """Every folder of real SNP evidence, as parameters; one that is skipped without any."""
    root = os.environ.get("WASMKEEP_VECTORS")
    if not root:
        reason = "WASMKEEP_VECTORS names no folder with attestation vectors"
        return [pytest.param(Path(), marks=pytest.mark.skip(reason=reason), id="none")]
    folders = sorted(path.parent for path in Path(root, "snp").glob("*/expected.json"))
    return [pytest.param(folder, id=folder.name) for folder in folders]


def expected_of(folder: Path) -> dict[str, Any]:
    expected = json.loads((folder / "expected.json").read_bytes())
    assert isinstance(expected, dict)
    return expected


def time_of(expected: dict[str, Any]) -> datetime:
    """When the vector must verify; any time for those that never do."""
    return datetime.fromisoformat(expected["verify"].get("at", "2026-01-01T00:00:00+00:00"))


def evidence_of(folder: Path, *, crls: tuple[bytes, ...] = ()) -> Evidence:
    certificates = tuple((folder / name).read_bytes() for name in CERTIFICATE_FILES if (folder / name).exists())
    return Evidence(
        kind=EvidenceKind.SNP,
        body=(folder / "report.bin").read_bytes(),
        endorsements=Endorsements(certificates=certificates, crls=crls),
    )


def verdict_of(
    evidence: Evidence,
    policy: SnpPolicy,
    at: datetime,
    *,
    binding: Binding | None = None,
    anchors: Anchors = PRODUCTION_ANCHORS,
) -> Verdict:
    examination = examine_snp(evidence, binding=binding, at=at, anchors=anchors)
    appraisal = tuple(rule.check(examination.facts) for rule in policy.rules())
    return Verdict(
        kind=evidence.kind,
        checks=(*examination.checks, *appraisal),
        facts=examination.facts,
        identity=examination.identity,
        at=at,
    )
