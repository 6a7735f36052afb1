"""Remembered verdicts: used for exactly what they were made for, and for minutes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from app_loader.attesters.simulated import attest
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict, verify_peer
from keep_attestation.ratls.verdict_cache import VerdictCache
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.verdict import CollateralDates, Freshness
from keep_attestation.verification import verify
from keep_protocol.cmw import build_collection, encode_endorsements
from keep_protocol.evidence import EvidenceKind, encode_claims, report_data
from tests.unit.keep_attestation.ratls.makers import AT, EXPECTED, MEASUREMENT, POLICY, SPEC_SHA256, FakeKeep

REPORT_DATA = bytes(range(64))
EVIDENCE = Evidence(kind=EvidenceKind.SIMULATED, body=attest(REPORT_DATA, MEASUREMENT))


@pytest.fixture(scope="module")
def keep() -> FakeKeep:
    return FakeKeep()


def judge(
    certificate: bytes, expected: ExpectedKeep = EXPECTED, policy: Policy = POLICY, **options: Any
) -> PeerVerdict:
    return verify_peer(certificate, policy, expected=expected, at=options.pop("at", AT), **options)


def failed_checks(peer: PeerVerdict) -> list[str]:
    return [check.name for check in peer.verdict.failures]


class _CountingCache(VerdictCache):
    found = 0

    def find(self, *arguments: Any) -> Any:
        verdict = super().find(*arguments)
        self.found += verdict is not None
        return verdict


def test_a_remembered_verdict_is_used_for_the_same_certificate_for_minutes_only(keep: FakeKeep) -> None:
    cache, certificate = _CountingCache(), keep.certificate()
    judge(certificate, cache=cache)
    assert judge(certificate, cache=cache, at=AT + timedelta(minutes=5)).accepted
    assert cache.found == 1
    judge(certificate, cache=cache, at=AT + timedelta(minutes=6))
    judge(certificate, cache=cache, at=AT - timedelta(seconds=1))
    assert cache.found == 1


def test_a_remembered_verdict_is_never_used_for_another_key_policy_or_collateral(keep: FakeKeep) -> None:
    # Row 33.
    cache = _CountingCache()
    assert judge(keep.certificate(), cache=cache).accepted
    stricter = Policy(simulated=(SimulatedPolicy(measurements=("00" * 32,)),))
    assert failed_checks(judge(keep.certificate(), policy=stricter, cache=cache)) == ["simulated.measurement"]
    assert failed_checks(judge(FakeKeep().certificate(keep.collection()), cache=cache)) == ["ratls.key"]
    claims = encode_claims(keep.claims())
    with_collateral = build_collection(
        EvidenceKind.SIMULATED,
        attest(report_data(claims), MEASUREMENT),
        claims,
        endorsements=encode_endorsements(collateral=b"{}"),
    )
    judge(keep.certificate(with_collateral), cache=cache)
    assert cache.found == 0


def test_a_remembered_verdict_spares_no_check_of_certificate_and_claims(keep: FakeKeep) -> None:
    cache, certificate = _CountingCache(), keep.certificate(lifetime=timedelta(minutes=2))
    assert judge(certificate, cache=cache).accepted
    late = judge(certificate, cache=cache, at=AT + timedelta(minutes=2))
    other = judge(certificate, ExpectedKeep(keep="another", spec_sha256=SPEC_SHA256), cache=cache)
    assert (failed_checks(late), failed_checks(other)) == (["ratls.validity"], ["ratls.keep"])
    assert cache.found == 2


def test_refusals_are_not_remembered_and_the_cache_is_bounded(keep: FakeKeep) -> None:
    cache = _CountingCache(capacity=1)
    for _ in range(2):
        judge(keep.certificate(), policy=Policy(simulated=(SimulatedPolicy(),)), cache=cache)
    for _ in range(2):
        for number in range(2):
            judge(keep.certificate(keep.collection(issued_at=int(AT.timestamp()) - number)), cache=cache)
    assert cache.found == 0


def remembered_until(not_after: datetime | None, freshness: Freshness, at: datetime) -> bool:
    cache, binding = VerdictCache(), Binding(report_data=REPORT_DATA, freshness=freshness)
    verdict = verify(EVIDENCE, POLICY, binding=binding, at=AT)
    assert verdict.accepted
    verdict = msgspec.structs.replace(verdict, collateral=CollateralDates(not_after=not_after))
    cache.store(EVIDENCE, POLICY, binding, verdict)
    return cache.find(EVIDENCE, POLICY, binding, at) is not None


def test_a_remembered_verdict_does_not_outlive_the_collateral_that_it_rests_on() -> None:
    expiry = AT + timedelta(minutes=1)
    assert remembered_until(expiry, Freshness.KEY, expiry)
    assert not remembered_until(expiry, Freshness.KEY, expiry + timedelta(seconds=1))
    assert remembered_until(None, Freshness.KEY, expiry + timedelta(seconds=1))


def test_verdicts_over_fresh_evidence_are_never_remembered() -> None:
    assert remembered_until(None, Freshness.KEY, AT)
    assert not remembered_until(None, Freshness.CONNECTION, AT)
