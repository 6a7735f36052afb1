"""Examines forged evidence of either TEE and tells what failed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.intel.anchors import TrustAnchors
from keep_attestation.sgx.verifier import examine_sgx
from keep_attestation.tdx.verifier import examine_tdx
from keep_attestation.verdict import Examination, Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.intel.forge import NOW, Forge, Tee, enclave_report, td_report

FORGE = Forge()


def examine(
    evidence: Evidence, *, anchors: TrustAnchors | None = None, at: datetime = NOW, binding: Binding | None = None
) -> Examination:
    """By the pinned production anchors unless others are given."""
    verifier = examine_tdx if evidence.kind is EvidenceKind.TDX else examine_sgx
    if anchors is None:
        return verifier(evidence, binding=binding, at=at)
    return verifier(evidence, binding=binding, at=at, anchors=anchors)


def failures(examination: Examination) -> dict[str, str]:
    """Reasons by the name of the check that failed."""
    return {check.name: check.reason for check in examination.checks if check.outcome is Outcome.FAIL}


def names(examination: Examination) -> list[str]:
    return [check.name for check in examination.checks]


def quote(tee: Tee, forge: Forge = FORGE, **flaw: Any) -> bytes:
    """Of a plain guest; `flaw` goes to `Forge.quote`."""
    return forge.quote(td_report(), **flaw) if tee == "tdx" else forge.quote(enclave_report(), version=3, **flaw)


def refusal(
    tee: Tee, *, forge: Forge = FORGE, raw: bytes | None = None, collateral: bytes | None = None
) -> dict[str, str]:
    """What fails of evidence that is good but for what is given."""
    evidence = forge.evidence(tee, raw or quote(tee, forge), collateral or forge.collateral(tee))
    return failures(examine(evidence, anchors=FORGE.anchors))
