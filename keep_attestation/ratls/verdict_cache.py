"""Remembers for minutes that evidence was accepted, so that many connections to one keep cost one verification.

The key covers everything that the conclusion rests on; a verdict is never used for another key, policy or collateral
than it was made with. Evidence bound to a connection is never remembered: it is never seen twice.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy
from keep_attestation.verdict import Freshness, Verdict

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Entry:
    verdict: Verdict
    until: datetime


class VerdictCache:
    """Accepted verdicts by what they rest on; for use by several threads."""

    def __init__(self, lifetime: timedelta = timedelta(minutes=5), capacity: int = 256) -> None:
        self._lifetime = lifetime
        self._capacity = capacity
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, evidence: Evidence, policy: Policy, binding: Binding, at: datetime) -> Verdict | None:
        """The verdict over exactly this, if it was made a short while before `at`."""
        key = _key(evidence, policy, binding)
        with self._lock:
            entry = self._entries.get(key)
            # A clock that was set back finds nothing.
            if entry is None or not entry.verdict.at <= at <= entry.until:
                return None
            self._entries.move_to_end(key)
            return entry.verdict

    def store(self, evidence: Evidence, policy: Policy, binding: Binding, verdict: Verdict) -> None:
        """Remember an accepted verdict; any other is forgotten at once."""
        if not verdict.accepted or binding.freshness is not Freshness.KEY:
            return
        until = verdict.at + self._lifetime
        if verdict.collateral.not_after is not None:
            until = min(until, verdict.collateral.not_after)
        with self._lock:
            self._entries[_key(evidence, policy, binding)] = _Entry(verdict, until)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)


def _key(evidence: Evidence, policy: Policy, binding: Binding) -> bytes:
    # The whole body, not its signed part alone: a verdict is not fetched by other unsigned bytes than it was made for.
    return hashlib.sha256(_encode((evidence, policy.digest, binding))).digest()
