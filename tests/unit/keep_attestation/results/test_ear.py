"""Verdicts as EAT Attestation Results."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from keep_attestation.evidence import Evidence
from keep_attestation.results.ear import Tier, attestation_result, tier
from keep_attestation.verdict import Check, Freshness, Outcome, Verdict
from keep_protocol.evidence import EvidenceKind

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
SIGNED = Check("snp.signature", Outcome.PASS, "by the VCEK")
UNSIGNED = Check("snp.signature", Outcome.FAIL, "by nobody")
OLD = Check("snp.tcb", Outcome.FAIL, "too old")


def verdict(*checks: Check, kind: EvidenceKind = EvidenceKind.SNP, freshness: Freshness = Freshness.KEY) -> Verdict:
    return Verdict(kind=kind, checks=checks, facts={"measurement": "ab"}, identity="00", at=AT, freshness=freshness)


def result(of: Verdict, **options: Any) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(attestation_result(of, policy_digest="c0ffee", **options))
    return claims


def test_an_accepted_verdict_is_affirming_about_hardware_and_executables() -> None:
    claims = result(verdict(SIGNED))
    assert claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert claims["iat"] == int(AT.timestamp())
    assert set(claims["ear_verifier_id"]) == {"developer", "build"}
    submodule = claims["submods"]["snp"]
    assert submodule["ear_status"] == "affirming"
    assert submodule["ear_trustworthiness_vector"] == {"hardware": 2, "executables": 2}
    assert submodule["ear_appraisal_policy_ids"] == ["urn:sha256:c0ffee"]
    assert submodule["ear_attester_claims"] == {"measurement": "ab"}
    assert submodule["ear_verifier_claims"]["wasmkeep_freshness"] == "key"


@pytest.mark.parametrize(("checks", "hardware"), [((SIGNED, OLD), 96), ((UNSIGNED,), 97), ((OLD,), 97), ((), 97)])
def test_a_refused_verdict_is_contraindicated_and_repeats_no_facts(checks: tuple[Check, ...], hardware: int) -> None:
    submodule = result(verdict(*checks))["submods"]["snp"]
    assert submodule["ear_status"] == "contraindicated"
    assert submodule["ear_trustworthiness_vector"] == {"hardware": hardware, "executables": 0}
    assert "ear_attester_claims" not in submodule
    reasons = [check["reason"] for check in submodule["ear_verifier_claims"]["wasmkeep_checks"]]
    assert reasons == [check.reason for check in checks]


def test_simulated_evidence_is_never_affirming() -> None:
    # Row 30.
    for freshness in Freshness:
        accepted = verdict(
            Check("simulated.signature", Outcome.PASS, ""), kind=EvidenceKind.SIMULATED, freshness=freshness
        )
        assert accepted.accepted
        assert tier(accepted) is Tier.NONE
        submodule = result(accepted)["submods"]["simulated"]
        assert submodule["ear_status"] == "none"
        assert set(submodule["ear_trustworthiness_vector"].values()) == {0}
    refused = verdict(Check("policy.kind", Outcome.FAIL, ""), kind=EvidenceKind.SIMULATED)
    assert tier(refused) is Tier.CONTRAINDICATED


def test_a_nonce_is_in_the_result_of_fresh_evidence_alone() -> None:
    fresh = verdict(SIGNED, freshness=Freshness.CONNECTION)
    assert result(fresh, nonce=b"\xff" * 32)["eat_nonce"] == "_" * 42 + "8"
    with pytest.raises(ValueError, match="fresh"):
        attestation_result(verdict(SIGNED), policy_digest="", nonce=b"\xff" * 32)


def test_the_evidence_can_be_put_in_as_a_wrapped_message() -> None:
    evidence = Evidence(kind=EvidenceKind.SNP, body=b"\xfb\xff")
    record = result(verdict(SIGNED), evidence=evidence)["ear_raw_evidence"]
    assert record == ["application/vnd.wasmkeep.snp", "-_8", 4]
