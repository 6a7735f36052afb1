"""Looks at the evidence of running keeps again and again, and says or acts when one is not what it should be.

The manager has no rights inside keeps, so it sees what everybody sees: the handshake, with the evidence in the keep's
certificate, which is at most a day old. Only the keep's principals can ask for evidence of this very moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from keep_attestation.errors import AttestationError
from keep_attestation.policy import load_policy
from keep_attestation.ratls.peer import ExpectedKeep, verify_peer
from keep_attestation.trusted_time import TimeFloor
from keep_manager.entry import KeepEntry
from keep_manager.errors import ConfigurationError, ManagerError, ProbeError
from keep_manager.events import EventLog
from keep_manager.keep_file import spki_digest_of
from keep_manager.store import NewEvent
from keep_manager.watch_settings import WatchAction, WatchSettings
from keep_protocol.states import KeepState

FAILED = "attestation-failed"
RESTORED = "attestation-restored"
_LONGEST_REASON = 1000

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tally:
    """One life of a keep."""

    invocation: str | None
    failures: int = 0
    failed: bool = False


class KeepWatch:
    """Watches every keep that is ready. `look` gives the certificate (DER) of who answers at an endpoint."""

    def __init__(
        self,
        settings: WatchSettings,
        entries: Callable[[], Iterable[KeepEntry]],
        look: Callable[[str], Awaitable[bytes]],
        stop: Callable[[KeepEntry], Awaitable[None]],
        events: EventLog,
    ) -> None:
        """Raises `ConfigurationError` for a policy that cannot be used."""
        try:
            self._policy = load_policy(settings.policy)
        except AttestationError as error:
            raise ConfigurationError(f"`watch.policy`: {error}") from None
        self._settings = settings
        self._entries = entries
        self._look = look
        self._stop = stop
        self._events = events
        self._time = TimeFloor()
        self._tallies: dict[str, _Tally] = {}

    async def run(self) -> None:
        """Rounds without end."""
        while True:
            await asyncio.sleep(self._settings.interval)
            try:
                await self.round()
            except ManagerError as error:
                _logger.error("the watch of keeps: %s", error)

    async def round(self) -> None:
        """Look at every keep once."""
        ready = [entry for entry in self._entries() if entry.state is KeepState.READY]
        self._tallies = {entry.id: self._tally(entry) for entry in ready}
        for entry in ready:
            problem = await self._problem(entry)
            # It may have been stopped or started again meanwhile; then this says nothing of it.
            if entry.state is KeepState.READY and entry.row.invocation == self._tallies[entry.id].invocation:
                await self._count(entry, self._tallies[entry.id], problem)

    def _tally(self, entry: KeepEntry) -> _Tally:
        known = self._tallies.get(entry.id)
        same = known is not None and known.invocation == entry.row.invocation
        return known if known is not None and same else _Tally(entry.row.invocation)

    async def _count(self, entry: KeepEntry, tally: _Tally, problem: str | None) -> None:
        if problem is None:
            if tally.failed:
                self._record(entry, RESTORED, {"failures": str(tally.failures)})
            tally.failures, tally.failed = 0, False
            return
        tally.failures += 1
        _logger.warning("keep %s is not what it should be (%d): %s", entry.id, tally.failures, problem)
        if tally.failures <= self._settings.failures or tally.failed:
            return
        tally.failed = True
        detail = {"reason": problem[:_LONGEST_REASON], "failures": str(tally.failures)}
        self._record(entry, FAILED, detail | {"action": self._settings.action.value})
        if self._settings.action is WatchAction.STOP:
            await self._stop(entry)

    async def _problem(self, entry: KeepEntry) -> str | None:
        """Why the keep is refused, or None."""
        try:
            certificate = await self._look(entry.row.endpoint)
            if entry.spec.evidence is None:
                found = spki_digest_of(certificate)
                same = found == entry.spki_sha256
                return None if same else f"another key answers: {found}, and the keep published {entry.spki_sha256}"
            return await asyncio.to_thread(self._judge, certificate, entry)
        except (ProbeError, AttestationError, ValueError) as error:
            return str(error)

    def _judge(self, certificate: bytes, entry: KeepEntry) -> str | None:
        assert entry.spec.evidence is not None
        expected = ExpectedKeep(
            keep=entry.id, spec_sha256=bytes.fromhex(entry.spec_digest), backend=entry.spec.backend.value
        )
        policy = self._policy.only(entry.spec.evidence)
        verdict = verify_peer(certificate, policy, expected=expected, at=self._time.now()).verdict
        self._time.learn(verdict)
        return None if verdict.accepted else verdict.summary

    def _record(self, entry: KeepEntry, kind: str, detail: dict[str, str]) -> None:
        self._events.append(NewEvent(kind, entry.id, entry.owner, None, detail))
