"""Rules over the facts of genuine evidence, to be composed into policies."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keep_attestation.verdict import Check, Outcome

Facts = Mapping[str, Any]

_HEX = re.compile(r"[0-9a-f]+")


class Rule(Protocol):
    """One demand. A fact that is missing fails it: nothing is inferred from absence."""

    def check(self, facts: Facts) -> Check: ...


@dataclass(frozen=True, slots=True)
class OneOf:
    """The fact is one of `allowed`. With none allowed everything is refused: no reference value means refusal."""

    fact: str
    allowed: Collection[Any]
    check_name: str

    def check(self, facts: Facts) -> Check:
        value = facts.get(self.fact)
        if not self.allowed:
            return Check(self.check_name, Outcome.FAIL, f"the policy names no allowed {self.fact}; it is {show(value)}")
        if value is not None and value in self.allowed:
            return Check(self.check_name, Outcome.PASS, f"{self.fact} {show(value)} is allowed")
        return Check(
            self.check_name, Outcome.FAIL, f"{self.fact} {show(value)} is none of the {len(self.allowed)} allowed"
        )


@dataclass(frozen=True, slots=True)
class Equals:
    """The fact has this value; `why` completes “… because”, for the refusal."""

    fact: str
    value: Any
    check_name: str
    why: str

    def check(self, facts: Facts) -> Check:
        value = facts.get(self.fact)
        # True == 1 in Python; a flag is not a number.
        if type(value) is type(self.value) and value == self.value:
            return Check(self.check_name, Outcome.PASS, f"{self.fact} is {show(value)}")
        return Check(self.check_name, Outcome.FAIL, f"{self.fact} is {show(value)}, not {show(self.value)}: {self.why}")


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The fact is a number of at least `minimum`."""

    fact: str
    minimum: int
    check_name: str

    def check(self, facts: Facts) -> Check:
        value = facts.get(self.fact)
        if type(value) is int and value >= self.minimum:
            return Check(self.check_name, Outcome.PASS, f"{self.fact} {value} is at least {self.minimum}")
        return Check(self.check_name, Outcome.FAIL, f"{self.fact} {show(value)} is below {self.minimum}")


@dataclass(frozen=True, slots=True)
class AtMost:
    """The fact is a number of at most `maximum`."""

    fact: str
    maximum: int
    check_name: str

    def check(self, facts: Facts) -> Check:
        value = facts.get(self.fact)
        if type(value) is int and value <= self.maximum:
            return Check(self.check_name, Outcome.PASS, f"{self.fact} {value} is at most {self.maximum}")
        return Check(self.check_name, Outcome.FAIL, f"{self.fact} {show(value)} is above {self.maximum}")


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every rule holds. Without rules it fails."""

    rules: tuple[Rule, ...]
    check_name: str

    def check(self, facts: Facts) -> Check:
        failed = [check for rule in self.rules if (check := rule.check(facts)).outcome is Outcome.FAIL]
        if failed or not self.rules:
            reasons = "; ".join(check.reason for check in failed) or "it has no rules"
            return Check(self.check_name, Outcome.FAIL, reasons)
        return Check(self.check_name, Outcome.PASS, f"all {len(self.rules)} rules hold")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one rule holds. Without rules it fails."""

    rules: tuple[Rule, ...]
    check_name: str

    def check(self, facts: Facts) -> Check:
        checks = [rule.check(facts) for rule in self.rules]
        for check in checks:
            if check.outcome is Outcome.PASS:
                return Check(self.check_name, Outcome.PASS, check.reason)
        reasons = "; ".join(check.reason for check in checks) or "it has no rules"
        return Check(self.check_name, Outcome.FAIL, f"none of {len(checks)} alternatives holds: {reasons}")


def show(value: Any) -> str:
    """A fact as reasons print it: long hex is cut, words are not, since they may have to go into a policy."""
    if value is None:
        return "absent"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    is_short = len(text) <= 32 or (len(text) <= 64 and _HEX.fullmatch(text) is None)
    return text if is_short else f"{text[:16]}…{text[-4:]}"
