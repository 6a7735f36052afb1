"""What a verifier concludes: every check with its outcome and reason, as a value for people and machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from keep_attestation.errors import EvidenceRefusedError
from keep_protocol.evidence import EvidenceKind


class Outcome(StrEnum):
    """Of one check."""

    PASS = "pass"
    FAIL = "fail"
    NOTE = "note"
    """Looked at and reported; decides nothing."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at, e.g. `snp.signature`."""

    name: str
    outcome: Outcome
    reason: str


class Freshness(StrEnum):
    """What the evidence was shown to be bound to."""

    UNBOUND = "unbound"
    """Nothing was demanded: the evidence is genuine, but anybody may hold a copy of it."""
    KEY = "key"
    """To a TLS key; no nonce, so it may be old (phase one)."""
    CONNECTION = "connection"
    """To a nonce of ours and this very TLS connection (phase two): secrets may follow."""


class CollateralDates(msgspec.Struct, frozen=True, kw_only=True):
    """How old the endorsements are that the verdict rests on."""

    not_before: datetime | None = None
    """The latest beginning of validity among certificates, CRLs and collateral used."""
    not_after: datetime | None = None
    """The earliest end of it: after this the same evidence is refused."""
    evaluation_number: int | None = None
    """Intel's tcbEvaluationDataNumber."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The whole conclusion about one piece of evidence. Positive only if some check passed and none failed."""

    kind: EvidenceKind
    checks: tuple[Check, ...]
    facts: Mapping[str, Any]
    """What the evidence says, by name: hex strings, numbers, booleans, lists of these. Trustworthy only if accepted."""
    identity: str | None
    """SHA-256 over the signed part alone, in hex: unsigned bytes and a mirrored ECDSA signature don't change it."""
    at: datetime
    """The time that validity was judged at."""
    freshness: Freshness = Freshness.UNBOUND
    collateral: CollateralDates = CollateralDates()

    @property
    def accepted(self) -> bool:
        outcomes = {check.outcome for check in self.checks}
        return Outcome.PASS in outcomes and Outcome.FAIL not in outcomes

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome is Outcome.FAIL)

    @property
    def summary(self) -> str:
        """One line: accepted, or every reason of refusal."""
        if self.accepted:
            return f"{self.kind} evidence accepted: {sum(c.outcome is Outcome.PASS for c in self.checks)} checks passed"
        reasons = "; ".join(f"{check.name}: {check.reason}" for check in self.failures) or "nothing was checked"
        return f"{self.kind} evidence refused: {reasons}"

    def require(self) -> Verdict:
        """This verdict. Raises `EvidenceRefusedError` if it is not positive."""
        if not self.accepted:
            raise EvidenceRefusedError(self)
        return self

    def to_json(self) -> bytes:
        """For machines: the fields above, and `accepted`."""
        fields = msgspec.to_builtins(self)
        return msgspec.json.encode({"accepted": self.accepted, **fields}, order="deterministic")


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind's verifier found, whatever the policy: is the evidence genuine, whole and bound, and what it says."""

    checks: tuple[Check, ...]
    facts: Mapping[str, Any]
    identity: str | None
    collateral: CollateralDates = CollateralDates()


class Checks:
    """Collects checks in the order in which they are made."""

    def __init__(self) -> None:
        self._made: list[Check] = []

    @property
    def made(self) -> tuple[Check, ...]:
        return tuple(self._made)

    @property
    def failed(self) -> bool:
        return any(check.outcome is Outcome.FAIL for check in self._made)

    def expect(self, name: str, holds: bool, *, passed: str, failed: str) -> bool:
        """Record whether `holds`; returns it."""
        self._made.append(Check(name, Outcome.PASS if holds else Outcome.FAIL, passed if holds else failed))
        return holds

    def ok(self, name: str, reason: str) -> None:
        self._made.append(Check(name, Outcome.PASS, reason))

    def fail(self, name: str, reason: str) -> None:
        self._made.append(Check(name, Outcome.FAIL, reason))

    def note(self, name: str, reason: str) -> None:
        self._made.append(Check(name, Outcome.NOTE, reason))

    def extend(self, checks: Iterable[Check]) -> None:
        self._made.extend(checks)
