"""Verifies one piece of evidence against a policy, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import cast

import msgspec

from keep_attestation.endorsement_sources.interface import EndorsementSource
from keep_attestation.errors import EndorsementsError, MalformedEvidenceError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy, refused_kind
from keep_attestation.verdict import Check, Examination, Freshness, Outcome, Verdict
from keep_protocol.evidence import EvidenceKind

MAX_EVIDENCE_SIZE = 1024 * 1024
"""Bytes of a body; the largest real ones, with certificates, have a few dozen KiB."""
MAX_LOG_SIZE = 8 * 1024 * 1024


_EXAMINERS = {
    EvidenceKind.SNP: ("keep_attestation.snp.verifier", "examine_snp"),
    EvidenceKind.TDX: ("keep_attestation.tdx.verifier", "examine_tdx"),
    EvidenceKind.SGX: ("keep_attestation.sgx.verifier", "examine_sgx"),
    EvidenceKind.NITRO: ("keep_attestation.nitro.verifier", "examine_nitro"),
    EvidenceKind.TPM: ("keep_attestation.tpm.verifier", "examine_tpm"),
    EvidenceKind.AZURE_SNP: ("keep_attestation.azure.verifier", "examine_azure"),
    EvidenceKind.AZURE_TDX: ("keep_attestation.azure.verifier", "examine_azure"),
    EvidenceKind.SIMULATED: ("keep_attestation.simulated.verifier", "examine_simulated"),
}
"""Imported at first use: nobody needs all of them, and Intel's alone loads megabytes."""

Examiner = Callable[..., Examination]


def examiner_of(kind: EvidenceKind) -> Examiner:
    module, name = _EXAMINERS[kind]
    return cast(Examiner, getattr(import_module(module), name))


def verify(
    evidence: Evidence,
    policy: Policy,
    *,
    binding: Binding | None = None,
    at: datetime | None = None,
    sources: Iterable[EndorsementSource] = (),
    examine: Examiner | None = None,
) -> Verdict:
    """The verdict over `evidence`, judged at `at` (now, unless given; it must have a time zone).

    A kind that the policy does not list is refused before its bytes are looked at. `sources` are asked in order for
    endorsements; one that fails is noted, and what is then missing refuses. `examine` replaces the kind's examiner, for
    trust anchors other than the pinned ones. Never raises for anything in the evidence.
    """
    at = datetime.now(UTC) if at is None else at
    if at.tzinfo is None:
        raise ValueError("`at` needs a time zone")
    if not policy.alternatives(evidence.kind):
        return Verdict(
            kind=evidence.kind, checks=(refused_kind(policy, evidence.kind),), facts={}, identity=None, at=at
        )
    if len(evidence.body) > MAX_EVIDENCE_SIZE or len(evidence.log or b"") > MAX_LOG_SIZE:
        check = Check(f"{evidence.kind}.format", Outcome.FAIL, f"the evidence is larger than {MAX_EVIDENCE_SIZE} bytes")
        return Verdict(kind=evidence.kind, checks=(check,), facts={}, identity=None, at=at)
    notes: list[Check] = []
    for source in sources:
        try:
            found = source.endorsements_for(evidence)
        except EndorsementsError as error:
            notes.append(Check("endorsements", Outcome.NOTE, str(error)))
        else:
            evidence = msgspec.structs.replace(evidence, endorsements=evidence.endorsements + found)
    try:
        examination = (examine or examiner_of(evidence.kind))(evidence, binding=binding, at=at)
    except MalformedEvidenceError as error:
        failed = Check(f"{evidence.kind}.format", Outcome.FAIL, str(error))
        return Verdict(kind=evidence.kind, checks=(*notes, failed), facts={}, identity=None, at=at)
    appraisal = policy.appraise(evidence.kind, examination.facts)
    return Verdict(
        kind=evidence.kind,
        checks=(*notes, *examination.checks, *appraisal),
        facts=examination.facts,
        identity=examination.identity,
        at=at,
        freshness=Freshness.UNBOUND if binding is None else binding.freshness,
        collateral=examination.collateral,
    )
