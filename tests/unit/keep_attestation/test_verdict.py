"""A verdict is positive only if something was checked and nothing failed, and says so to people and machines."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from keep_attestation.errors import AttestationError, EvidenceRefusedError
from keep_attestation.verdict import Check, Checks, CollateralDates, Freshness, Outcome, Verdict
from keep_protocol.evidence import EvidenceKind

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
PASS = Check("snp.signature", Outcome.PASS, "the chip signed")
FAIL = Check("snp.debug", Outcome.FAIL, "debug is true")
NOTE = Check("snp.revocation", Outcome.NOTE, "no CRL came")


def verdict(*checks: Check) -> Verdict:
    return Verdict(kind=EvidenceKind.SNP, checks=checks, facts={"debug": True, "svn": 3}, identity="ab" * 32, at=AT)


@pytest.mark.parametrize(
    ("checks", "accepted"),
    [((), False), ((NOTE,), False), ((PASS,), True), ((PASS, NOTE), True), ((PASS, FAIL), False), ((FAIL,), False)],
)
def test_a_verdict_is_positive_only_if_a_check_passed_and_none_failed(
    checks: tuple[Check, ...], accepted: bool
) -> None:
    assert verdict(*checks).accepted is accepted


def test_a_summary_counts_what_passed_or_names_every_failure() -> None:
    other = Check("snp.smt", Outcome.FAIL, "smt is true")
    assert verdict(PASS, NOTE).summary == "snp evidence accepted: 1 checks passed"
    assert verdict(PASS, FAIL, other).summary == "snp evidence refused: snp.debug: debug is true; snp.smt: smt is true"
    assert verdict().summary == "snp evidence refused: nothing was checked"


def test_requiring_a_negative_verdict_raises_it() -> None:
    good, bad = verdict(PASS), verdict(PASS, FAIL)
    assert good.require() is good
    with pytest.raises(EvidenceRefusedError, match=r"snp\.debug: debug is true") as raised:
        bad.require()
    assert raised.value.verdict is bad
    assert isinstance(raised.value, AttestationError)


def test_machines_get_every_field_and_the_conclusion() -> None:
    assert json.loads(verdict(PASS, FAIL).to_json()) == {
        "accepted": False,
        "kind": "snp",
        "checks": [
            {"name": "snp.signature", "outcome": "pass", "reason": "the chip signed"},
            {"name": "snp.debug", "outcome": "fail", "reason": "debug is true"},
        ],
        "facts": {"debug": True, "svn": 3},
        "identity": "ab" * 32,
        "at": "2026-06-01T12:00:00Z",
        "freshness": "unbound",
        "collateral": {"not_before": None, "not_after": None, "evaluation_number": None},
    }


def test_a_fact_named_accepted_does_not_make_a_verdict_positive() -> None:
    forged = Verdict(kind=EvidenceKind.SNP, checks=(FAIL,), facts={"accepted": True}, identity=None, at=AT)
    assert json.loads(forged.to_json())["accepted"] is False


def test_freshness_and_dates_are_part_of_the_verdict() -> None:
    fresh = Verdict(
        kind=EvidenceKind.TDX,
        checks=(PASS,),
        facts={},
        identity=None,
        at=AT,
        freshness=Freshness.CONNECTION,
        collateral=CollateralDates(not_after=AT, evaluation_number=18),
    )
    document = json.loads(fresh.to_json())
    assert document["freshness"] == "connection"
    assert document["collateral"] == {
        "not_before": None,
        "not_after": "2026-06-01T12:00:00Z",
        "evaluation_number": 18,
    }


def test_checks_are_kept_in_the_order_in_which_they_were_made() -> None:
    checks = Checks()
    assert not checks.failed
    assert checks.expect("a", True, passed="yes", failed="no")
    checks.note("b", "seen")
    checks.ok("c", "good")
    assert not checks.failed
    assert not checks.expect("d", False, passed="yes", failed="no")
    checks.fail("e", "bad")
    checks.extend((PASS,))
    assert checks.failed
    assert checks.made == (
        Check("a", Outcome.PASS, "yes"),
        Check("b", Outcome.NOTE, "seen"),
        Check("c", Outcome.PASS, "good"),
        Check("d", Outcome.FAIL, "no"),
        Check("e", Outcome.FAIL, "bad"),
        PASS,
    )
