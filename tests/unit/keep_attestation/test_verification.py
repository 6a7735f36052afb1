"""One call for every kind: refuses unlisted kinds unread, asks sources, and never raises for what is in evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app_loader.attesters.simulated import attest
from keep_attestation.errors import EndorsementsError, MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.verdict import Check, Examination, Freshness, Outcome
from keep_attestation.verification import MAX_EVIDENCE_SIZE, MAX_LOG_SIZE, examiner_of, verify
from keep_protocol.evidence import EvidenceKind

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
MEASUREMENT = bytes(range(32))
REPORT_DATA = bytes(range(64))
POLICY = Policy(simulated=(SimulatedPolicy(measurements=(MEASUREMENT.hex(),)),))
EVERYTHING = parse_policy("\n".join(f"[{kind}]" for kind in EvidenceKind))
EVIDENCE = Evidence(kind=EvidenceKind.SIMULATED, body=attest(REPORT_DATA, MEASUREMENT))


class Recording:
    """An examiner that remembers what it was given."""

    def __init__(self, *checks: Check) -> None:
        self.seen: list[tuple[Evidence, Binding | None, datetime]] = []
        self._checks = checks

    def __call__(self, evidence: Evidence, *, binding: Binding | None, at: datetime) -> Examination:
        self.seen.append((evidence, binding, at))
        return Examination(checks=self._checks, facts={"measurement": MEASUREMENT.hex()}, identity="id")


class Source:
    """Finds what it was given, or fails."""

    def __init__(self, found: Endorsements | str) -> None:
        self.asked: list[Endorsements] = []
        self._found = found

    def endorsements_for(self, evidence: Evidence) -> Endorsements:
        self.asked.append(evidence.endorsements)
        if isinstance(self._found, str):
            raise EndorsementsError(self._found)
        return self._found


def test_genuine_evidence_that_the_policy_accepts_is_accepted() -> None:
    verdict = verify(EVIDENCE, POLICY, binding=Binding(report_data=REPORT_DATA), at=AT)
    assert verdict.accepted, verdict.summary
    assert (verdict.kind, verdict.at, verdict.freshness) == (EvidenceKind.SIMULATED, AT, Freshness.KEY)
    assert verdict.facts["measurement"] == MEASUREMENT.hex()


def test_an_unlisted_kind_is_refused_before_anything_is_parsed_or_asked() -> None:
    examine, source = Recording(), Source(Endorsements())
    for kind in set(EvidenceKind) - {EvidenceKind.SIMULATED}:
        evidence = Evidence(kind=kind, body=b"hostile")
        verdict = verify(evidence, POLICY, at=AT, examine=examine, sources=(source,))
        assert [check.name for check in verdict.failures] == ["policy.kind"]
        assert (verdict.facts, verdict.identity) == ({}, None)
    assert examine.seen == []
    assert source.asked == []


def test_a_production_policy_refuses_simulated_evidence_unread() -> None:
    def never(evidence: Evidence, *, binding: Binding | None, at: datetime) -> Examination:
        raise AssertionError("simulated evidence was looked at")

    production = parse_policy(f'[snp]\nmeasurements = ["{"ab" * 48}"]')
    verdict = verify(EVIDENCE, production, at=AT, examine=never)
    assert [check.name for check in verdict.failures] == ["policy.kind"]


@pytest.mark.parametrize("kind", EvidenceKind)
def test_every_kind_has_an_examiner_of_its_own_name(kind: EvidenceKind) -> None:
    assert examiner_of(kind).__name__ == f"examine_{kind.value.partition('-')[0]}"


@pytest.mark.parametrize("kind", EvidenceKind)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(body=st.binary(max_size=200), log=st.none() | st.binary(max_size=50), more=st.lists(st.binary(max_size=50)))
def test_arbitrary_evidence_is_refused_and_raises_nothing(
    kind: EvidenceKind, body: bytes, log: bytes | None, more: list[bytes]
) -> None:
    endorsements = Endorsements(certificates=tuple(more), crls=tuple(more), collateral=body)
    evidence = Evidence(kind=kind, body=body, endorsements=endorsements, log=log)
    verdict = verify(evidence, EVERYTHING, binding=Binding(report_data=bytes(64)), at=AT)
    assert not verdict.accepted
    assert verdict.failures


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(kind=EvidenceKind.SIMULATED, body=bytes(MAX_EVIDENCE_SIZE + 1)),
        Evidence(kind=EvidenceKind.SIMULATED, body=b"", log=bytes(MAX_LOG_SIZE + 1)),
    ],
    ids=["body", "log"],
)
def test_evidence_that_is_too_large_is_refused_unread(evidence: Evidence) -> None:
    examine = Recording()
    verdict = verify(evidence, POLICY, at=AT, examine=examine)
    assert [check.name for check in verdict.failures] == ["simulated.format"]
    assert examine.seen == []


@pytest.mark.parametrize("error", [MalformedEvidenceError, UnsupportedEvidenceError])
def test_malformed_evidence_is_a_failed_check_that_says_why(error: type[MalformedEvidenceError]) -> None:
    def examine(evidence: Evidence, **arguments: Any) -> Examination:
        raise error("version 9 is not known")

    verdict = verify(EVIDENCE, POLICY, at=AT, examine=examine)
    assert verdict.checks == (Check("simulated.format", Outcome.FAIL, "version 9 is not known"),)
    assert (verdict.facts, verdict.identity) == ({}, None)


def test_evidence_that_is_not_genuine_stays_refused_though_it_says_what_the_policy_wants() -> None:
    failed = Check("simulated.signature", Outcome.FAIL, "not by the key")
    verdict = verify(EVIDENCE, POLICY, at=AT, examine=Recording(failed))
    assert verdict.failures == (failed,)
    assert verdict.checks[-1].name == "simulated.measurement"


def test_sources_are_asked_in_order_for_what_the_others_did_not_find() -> None:
    first, second = Source(Endorsements(certificates=(b"a",))), Source(Endorsements(certificates=(b"b",), crls=(b"c",)))
    examine = Recording(Check("x", Outcome.PASS, ""))
    verify(EVIDENCE, POLICY, at=AT, sources=(first, second), examine=examine)
    assert first.asked == [Endorsements()]
    assert second.asked == [Endorsements(certificates=(b"a",))]
    ((evidence, _, _),) = examine.seen
    assert evidence.endorsements == Endorsements(certificates=(b"a", b"b"), crls=(b"c",))


def test_a_source_that_fails_is_noted_and_the_next_one_asked() -> None:
    failing, good = Source("the service does not answer"), Source(Endorsements(crls=(b"c",)))
    examine = Recording(Check("x", Outcome.PASS, ""))
    verdict = verify(EVIDENCE, POLICY, at=AT, sources=(failing, good), examine=examine)
    assert verdict.checks[0] == Check("endorsements", Outcome.NOTE, "the service does not answer")
    assert verdict.accepted
    assert good.asked == [Endorsements()]


def test_a_failing_source_is_noted_beside_malformed_evidence_too() -> None:
    evidence = Evidence(kind=EvidenceKind.SIMULATED, body=b"junk")
    verdict = verify(evidence, POLICY, at=AT, sources=(Source("away"),))
    assert [check.name for check in verdict.checks] == ["endorsements", "simulated.format"]


def test_the_time_is_given_with_a_zone_or_is_now() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(EVIDENCE, POLICY, at=datetime(2026, 6, 1))
    with pytest.raises(ValueError, match="time zone"):
        verify(Evidence(kind=EvidenceKind.SNP, body=b""), POLICY, at=datetime(2026, 6, 1))
    before = datetime.now(UTC)
    examine = Recording()
    at = verify(EVIDENCE, POLICY, examine=examine).at
    assert before <= at <= datetime.now(UTC) + timedelta(seconds=1)
    assert examine.seen[0][2] == at


@pytest.mark.parametrize(
    ("binding", "freshness"),
    [
        (None, Freshness.UNBOUND),
        (Binding(report_data=REPORT_DATA), Freshness.KEY),
        (Binding(report_data=REPORT_DATA, freshness=Freshness.CONNECTION), Freshness.CONNECTION),
    ],
)
def test_a_verdict_is_as_fresh_as_the_binding_that_was_demanded(binding: Binding | None, freshness: Freshness) -> None:
    assert verify(EVIDENCE, POLICY, binding=binding, at=AT).freshness is freshness
