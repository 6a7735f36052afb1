"""Verdicts as EAT Attestation Results (draft-ietf-rats-ear-04) with the tiers of AR4SI (draft-ietf-rats-ar4si).

The claims set is not signed: it is a result for whoever trusts the verifier that hands it over.
"""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Any

import msgspec

from keep_attestation.evidence import Evidence
from keep_attestation.verdict import Freshness, Outcome, Verdict
from keep_protocol import __version__
from keep_protocol.cmw import Indicator
from keep_protocol.evidence import EvidenceKind

EAR_PROFILE = "tag:ietf.org,2026:rats/ear#04"
_DEVELOPER = "https://wasmkeep.dev"

_NO_CLAIM = 0
_AFFIRMING = 2
_CONTRAINDICATED = 96
_UNVERIFIABLE = 97
"""AR4SI, 2.3.2: cryptographic validation of the evidence failed."""


class Tier(StrEnum):
    """How trustworthy, by AR4SI. There is no warning: a check here holds or it does not."""

    NONE = "none"
    AFFIRMING = "affirming"
    CONTRAINDICATED = "contraindicated"


def tier(verdict: Verdict) -> Tier:
    """Simulated evidence is never affirming, whatever a development policy accepts: it supports no claim."""
    if not verdict.accepted:
        return Tier.CONTRAINDICATED
    return Tier.NONE if verdict.kind is EvidenceKind.SIMULATED else Tier.AFFIRMING


def attestation_result(
    verdict: Verdict, *, policy_digest: str, nonce: bytes | None = None, evidence: Evidence | None = None
) -> bytes:
    """The claims set in JSON. `nonce` is the one of the challenge; `evidence` is put in so that it can be judged again.

    Raises `ValueError` for a nonce beside a verdict that is not of this connection: it would promise freshness.
    """
    if nonce is not None and verdict.freshness is not Freshness.CONNECTION:
        raise ValueError("a nonce belongs into the result of fresh evidence alone")
    submodule: dict[str, Any] = {
        "ear_status": tier(verdict).value,
        "ear_trustworthiness_vector": _vector(verdict),
        "ear_appraisal_policy_ids": [f"urn:sha256:{policy_digest}"],
        "ear_verifier_claims": {
            "wasmkeep_freshness": verdict.freshness.value,
            "wasmkeep_checks": msgspec.to_builtins(verdict.checks),
        },
    }
    if verdict.accepted:
        # What refused evidence says is not repeated as if it were so.
        submodule["ear_attester_claims"] = dict(verdict.facts)
    claims: dict[str, Any] = {
        "eat_profile": EAR_PROFILE,
        "iat": int(verdict.at.timestamp()),
        "ear_verifier_id": {"developer": _DEVELOPER, "build": f"wasmkeep {__version__}"},
        "submods": {verdict.kind.value: submodule},
    }
    if nonce is not None:
        claims["eat_nonce"] = _base64url(nonce)
    if evidence is not None:
        claims["ear_raw_evidence"] = [evidence.kind.media_type, _base64url(evidence.body), int(Indicator.EVIDENCE)]
    return msgspec.json.encode(claims, order="deterministic")


def _vector(verdict: Verdict) -> dict[str, int]:
    """Claims about the hardware and what was measured; about anything else this verifier says nothing."""
    if verdict.kind is EvidenceKind.SIMULATED:
        return {"hardware": _NO_CLAIM, "executables": _NO_CLAIM}
    if verdict.accepted:
        return {"hardware": _AFFIRMING, "executables": _AFFIRMING}
    outcomes = {check.name.partition(" ")[0]: check.outcome for check in verdict.checks}
    signature = outcomes.get(f"{verdict.kind}.signature")
    genuine = signature is Outcome.PASS
    return {"hardware": _CONTRAINDICATED if genuine else _UNVERIFIABLE, "executables": _NO_CLAIM}


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
