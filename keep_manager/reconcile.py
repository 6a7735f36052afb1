"""Keeps records and units together: after the manager starts, whenever a unit changes, when systemd comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from keep_manager.entry import KeepEntry
from keep_manager.errors import ManagerError, SupervisorError
from keep_manager.keeps import Keeps
from keep_manager.lifecycle import Lifecycle
from keep_manager.supervisor.interface import ActiveState, Supervisor, UnitKind, UnitStatus
from keep_protocol.names import instance_name

_logger = logging.getLogger(__name__)

HEARTBEAT = 1.0
"""Seconds between two looks whether the supervisor answers; changes come as signals."""
RECONNECT_PAUSE = 1.0
PARALLEL_ACTS = 8


class Reconciler:
    """Follows the supervisor for as long as the manager runs."""

    def __init__(self, lifecycle: Lifecycle, keeps: Keeps, deployment: str) -> None:
        self._lifecycle = lifecycle
        self._keeps = keeps
        self._deployment = deployment
        self._following: dict[str, asyncio.Task[None]] = {}
        self._again: dict[str, bool] = {}
        """Whom to look at once more, and whether to start it then."""
        self._closed = False
        self._parallel = asyncio.Semaphore(PARALLEL_ACTS)

    @property
    def _supervisor(self) -> Supervisor:
        return self._lifecycle.supervisor

    async def run(self, found: asyncio.Event) -> None:
        """Never ends. `found` is set when every keep's state has been looked at once."""
        while True:
            try:
                await self._connected(found)
            except SupervisorError as error:
                _logger.error("the supervisor is gone: %s", error)
            await asyncio.sleep(RECONNECT_PAUSE)
            with contextlib.suppress(SupervisorError):
                await self._supervisor.connect()

    async def close(self) -> None:
        """Let go of what is being followed; the next start takes it up."""
        self._closed = True
        tasks = list(self._following.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def survey(self, *, start_missing: bool) -> None:
        """One list of all units: known lives are shown at once, the rest is followed up in the background."""
        units, brokers = await self._supervisor.list(), await self._supervisor.brokers()
        found = (*units.values(), *brokers.values())
        self._keeps.orphans = frozenset(
            _name(status) for status in found if self._is_ours(status) and self._is_orphan(status) and _lives(status)
        )
        self._keeps.foreign = frozenset(_name(status) for status in found if not self._is_ours(status))
        for entry in list(self._lifecycle.entries.values()):
            instance = self._lifecycle.instance(entry)
            status, broker = units.get(instance), brokers.get(instance)
            entry.broker = None if broker is None else broker.active
            # Whoever holds the lock is changing the state right now.
            known = status is not None and not entry.lock.locked() and self._lifecycle.recognise(entry, status)
            known = known and (entry.broker is ActiveState.ACTIVE or not entry.spec.network.names_anything)
            self._follow(entry, start_missing=start_missing, known=known)

    def observe(self, status: UnitStatus) -> None:
        """A unit changed."""
        entry = self._lifecycle.of_instance(status.instance)
        if not self._is_ours(status):
            self._keeps.foreign = _with(self._keeps.foreign, status)
        elif self._is_orphan(status):
            self._keeps.orphans = _with(self._keeps.orphans, status)
        elif entry is not None and status.kind is UnitKind.BROKER:
            # systemd starts it again; what it lived through does not touch the keep.
            entry.broker = status.active
        elif entry is not None:
            self._follow(entry, start_missing=False)

    async def _connected(self, found: asyncio.Event) -> None:
        """As long as the supervisor lives. Listens for changes first and lists then, so that none is missed."""
        changes = asyncio.create_task(self._listen(self._supervisor.changes()))
        heart = asyncio.create_task(self._heartbeat())
        try:
            await asyncio.sleep(0)
            await self.survey(start_missing=True)
            found.set()
            await changes
        finally:
            for task in (changes, heart):
                task.cancel()
            await asyncio.gather(changes, heart, return_exceptions=True)

    async def _listen(self, changes: AsyncIterator[UnitStatus]) -> None:
        async for status in changes:
            self.observe(status)

    async def _heartbeat(self) -> None:
        """Notices a supervisor that hangs, and catches up with it when it answers again."""
        nobody = instance_name(self._deployment, "0" * 16)
        while True:
            await asyncio.sleep(HEARTBEAT)
            was_alive = self._supervisor.alive
            try:
                await self._supervisor.status(nobody)
                if not was_alive:
                    _logger.info("the supervisor answers again")
                    await self.survey(start_missing=False)
            except SupervisorError as error:
                if was_alive:
                    _logger.warning("the supervisor does not answer: %s", error)

    def _follow(self, entry: KeepEntry, *, start_missing: bool, known: bool = False) -> None:
        """Follow a keep in the background: one task a keep, which looks once more if something came meanwhile."""
        if entry.id in self._following:
            self._again[entry.id] = start_missing or self._again.get(entry.id, False)
            return
        act = self._probe(entry) if known else self._bring_together(entry, start_missing=start_missing)
        task = self._following[entry.id] = asyncio.create_task(act)
        task.add_done_callback(lambda _: self._followed(entry))

    def _followed(self, entry: KeepEntry) -> None:
        del self._following[entry.id]
        again = self._again.pop(entry.id, None)
        if again is not None and not self._closed:
            self._follow(entry, start_missing=again)

    async def _bring_together(self, entry: KeepEntry, *, start_missing: bool) -> None:
        async with self._parallel:
            try:
                await self._lifecycle.follow(entry, start_missing=start_missing)
            except ManagerError as error:
                _logger.error("keep %s cannot be followed: %s", entry.id, error)
            except Exception:
                _logger.exception("keep %s cannot be followed", entry.id)

    async def _probe(self, entry: KeepEntry) -> None:
        """A keep that was taken for ready by its record: does its key still answer?"""
        async with self._parallel:
            try:
                await self._lifecycle.confirm(entry)
            except ManagerError as error:
                _logger.error("keep %s cannot be confirmed: %s", entry.id, error)

    def _is_ours(self, status: UnitStatus) -> bool:
        return status.instance.startswith(f"{self._deployment}-")

    def _is_orphan(self, status: UnitStatus) -> bool:
        """Whether no record knows of it. A broker has none of its own, but one whose spec names some network."""
        entry = self._lifecycle.of_instance(status.instance)
        return entry is None or (status.kind is UnitKind.BROKER and not entry.spec.network.names_anything)


def _lives(status: UnitStatus) -> bool:
    return status.active is not ActiveState.INACTIVE


def _with(instances: frozenset[str], status: UnitStatus) -> frozenset[str]:
    return instances | {_name(status)} if _lives(status) else instances - {_name(status)}


def _name(status: UnitStatus) -> str:
    return status.instance if status.kind is UnitKind.KEEP else f"{status.kind}@{status.instance}"
