"""Rules pass on exactly what they demand; a fact that is missing or of another type never satisfies one."""

from __future__ import annotations

from typing import Any

import pytest

from keep_attestation.rules import AllOf, AnyOf, AtLeast, AtMost, Equals, OneOf, Rule, show
from keep_attestation.verdict import Check, Outcome

FACTS: dict[str, Any] = {"measurement": "aa", "svn": 7, "debug": False, "one": 1, "nothing": None}
YES = Equals("debug", False, "yes", "")
NO = Equals("debug", True, "no", "it must be so")


def outcome(rule: Rule, **facts: Any) -> Outcome:
    return rule.check(FACTS | facts).outcome


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (OneOf("measurement", ("aa", "bb"), "m"), "measurement aa is allowed"),
        (Equals("debug", False, "d", "why"), "debug is false"),
        (AtLeast("svn", 7, "s"), "svn 7 is at least 7"),
        (AtMost("svn", 7, "s"), "svn 7 is at most 7"),
        (AllOf((YES, YES), "all"), "all 2 rules hold"),
        (AnyOf((NO, YES), "any"), "debug is false"),
    ],
)
def test_a_rule_passes_on_what_it_demands_and_says_what_it_saw(rule: Rule, reason: str) -> None:
    check = rule.check(FACTS)
    assert (check.outcome, check.reason) == (Outcome.PASS, reason)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (OneOf("measurement", ("bb", "cc"), "m"), "measurement aa is none of the 2 allowed"),
        (OneOf("measurement", (), "m"), "the policy names no allowed measurement; it is aa"),
        (Equals("debug", True, "d", "the host may look"), "debug is false, not true: the host may look"),
        (AtLeast("svn", 8, "s"), "svn 7 is below 8"),
        (AtMost("svn", 6, "s"), "svn 7 is above 6"),
        (
            AllOf((YES, NO, NO), "all"),
            "debug is false, not true: it must be so; debug is false, not true: it must be so",
        ),
        (AnyOf((NO,), "any"), "none of 1 alternatives holds: debug is false, not true: it must be so"),
    ],
)
def test_a_refusal_says_what_came_and_what_was_expected(rule: Rule, reason: str) -> None:
    check = rule.check(FACTS)
    assert (check.outcome, check.reason) == (Outcome.FAIL, reason)


@pytest.mark.parametrize("fact", ["absent", "nothing"])
@pytest.mark.parametrize(
    "make",
    [
        lambda fact: OneOf(fact, ("aa", None), "rule"),
        lambda fact: Equals(fact, False, "rule", "why"),
        lambda fact: AtLeast(fact, 0, "rule"),
        lambda fact: AtMost(fact, 2**64, "rule"),
    ],
    ids=["one of", "equals", "at least", "at most"],
)
def test_an_absent_fact_satisfies_nothing(make: Any, fact: str) -> None:
    check = make(fact).check(FACTS)
    assert check.outcome is Outcome.FAIL
    assert "absent" in check.reason


def test_a_flag_is_no_number_and_a_number_no_flag() -> None:
    assert outcome(Equals("one", True, "rule", "")) is Outcome.FAIL
    assert outcome(Equals("debug", 0, "rule", "")) is Outcome.FAIL
    assert outcome(AtLeast("debug", 0, "rule")) is Outcome.FAIL
    assert outcome(AtMost("debug", 1, "rule")) is Outcome.FAIL
    assert outcome(AtLeast("svn", 7, "rule"), svn="9") is Outcome.FAIL


def test_compositions_without_rules_refuse() -> None:
    for rule in (AllOf((), "empty"), AnyOf((), "empty")):
        check = rule.check(FACTS)
        assert check.outcome is Outcome.FAIL
        assert "it has no rules" in check.reason


def test_a_note_is_no_reason_to_accept() -> None:
    class Noting:
        def check(self, facts: Any) -> Check:
            return Check("note", Outcome.NOTE, "looked at")

    assert outcome(AnyOf((Noting(), NO), "any")) is Outcome.FAIL


def test_compositions_nest() -> None:
    genoa = AllOf((OneOf("measurement", ("aa",), "m"), AtLeast("svn", 9, "s")), "genoa")
    rule = AnyOf((genoa, AllOf((YES, AtLeast("svn", 5, "s")), "other")), "either")
    assert outcome(rule) is Outcome.PASS
    assert outcome(rule, svn=4) is Outcome.FAIL
    assert rule.check(FACTS).name == "either"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "absent"), (True, "true"), (12, "12"), ("ab" * 16, "ab" * 16), ("ab" * 24, "abababababababab…abab")],
)
def test_facts_are_shown_short(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_a_name_that_a_policy_may_have_to_list_is_shown_whole() -> None:
    status = "ConfigurationAndSWHardeningNeeded"
    assert status in OneOf("tcb_status", ("UpToDate",), "tdx.tcb_status").check({"tcb_status": status}).reason
