"""The one place where a keep changes its state: launch, verify, halt, erase, and following its unit.

Every act is announced in the store before it is done. The caller of an act holds the keep's lock.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from pathlib import Path

import msgspec
from cryptography import x509

from keep_manager.brokers import Brokers
from keep_manager.config import Settings
from keep_manager.disk_reserve import DiskReserve
from keep_manager.endpoints import bind_again, bind_recorded
from keep_manager.entry import KeepEntry
from keep_manager.errors import (
    DeviceError,
    EndpointTakenError,
    KeepFileError,
    KeepStartError,
    MachineUnavailableError,
    ProbeError,
    SealingKeyError,
    StoreFullError,
    UnitStartError,
)
from keep_manager.events import EventLog
from keep_manager.faults import fault_point
from keep_manager.handover import HandoverRefusedError, Offer
from keep_manager.host_links import HostLinks
from keep_manager.keep_file import PublishedFacts, read_keep_file, spki_digest
from keep_manager.keep_log import said_last, tail
from keep_manager.offers import Offers
from keep_manager.probe import check_endpoint
from keep_manager.store import IdempotencyKey, KeepRow, NewEvent, Phase, Store
from keep_manager.supervisor.interface import ActiveState, Supervisor, UnitStatus
from keep_protocol.handover import Hello
from keep_protocol.names import instance_name, keep_of_instance
from keep_protocol.states import Desired, KeepState

_logger = logging.getLogger(__name__)

PROBE_ATTEMPTS = 3
PROBE_PAUSE = 0.5


class Lifecycle:
    """The keeps in memory, and what may happen to them."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        supervisor: Supervisor,
        settings: Settings,
        reserve: DiskReserve,
        offers: Offers,
    ) -> None:
        self.entries: dict[str, KeepEntry] = {entry.id: entry for entry in map(KeepEntry.of, store.keeps())}
        self.supervisor = supervisor
        self._store = store
        self._events = events
        self._settings = settings
        self._reserve = reserve
        self._offering = offers
        self._offers: dict[str, Offer] = {}
        self._brokers = Brokers(supervisor, settings)
        self._links = HostLinks(supervisor.paths.runtime, settings.deployment)

    def instance(self, entry: KeepEntry) -> str:
        """The instance name of the keep's unit."""
        return instance_name(self._settings.deployment, entry.id, machine=entry.spec.backend.is_machine)

    @property
    def shared_folder(self) -> Path:
        """What all keeps of this deployment see of their manager."""
        return self._links.shared

    def announce(self, row: KeepRow, key: IdempotencyKey | None, actor: str) -> KeepEntry:
        """Record a keep that is about to be made, and take it into memory."""
        event = NewEvent("keep-created", row.id, row.owner, actor, {"name": row.name, "endpoint": row.endpoint})
        self._store.announce(row, event, key)
        entry = self.entries[row.id] = KeepEntry.of(row)
        self._events.announce()
        _logger.info("keep %s: %s for %s at %s", row.id, event.kind, row.owner, row.endpoint)
        return entry

    def record(
        self,
        entry: KeepEntry,
        row: KeepRow,
        kind: str | None = None,
        *,
        actor: str | None = None,
        answer: bytes | None = None,
        detail: dict[str, str] | None = None,
    ) -> None:
        """Commit a keep's new record, with the event that tells of it, then show it."""
        event = NewEvent(kind, entry.id, entry.owner, actor, detail) if kind else None
        self._store.update(row, event, answer)
        entry.row, entry.state, entry.reason = row, row.state, row.reason
        if row.state is not KeepState.READY and row.state is not KeepState.STARTING:
            entry.pid = None
        if event:
            self._events.announce()
            _logger.info("keep %s: %s%s", entry.id, kind, f": {row.reason}" if row.reason else "")

    async def launch(self, entry: KeepEntry, *, kind: str, actor: str | None = None) -> None:
        """Bind the recorded endpoint and start the unit. Raises `EndpointTakenError` and what `run` raises."""
        await self.run(entry, await bind_again(entry.row.endpoint), kind=kind, actor=actor)

    async def run(self, entry: KeepEntry, listener: socket.socket, *, kind: str, actor: str | None) -> None:
        """Start the unit, hand the socket over, check who answers, record `ready`.

        Raises `KeepStartError`, or `SupervisorUnavailableError`; the record is as it was then.
        """
        instance = self.instance(entry)
        try:
            self._offers[instance] = await self._offering.make(entry, listener)
            self._links.make(instance)
            fault_point("launch:linked")
            # First, because its folder is bound into the keep's view.
            await self._brokers.start(entry)
            fault_point("launch:network")
            status = await self.supervisor.start(instance, self._offering.unit_limits(entry.spec))
        except (DeviceError, MachineUnavailableError, SealingKeyError) as error:
            raise KeepStartError(str(error)) from None
        except UnitStartError as error:
            log = self.supervisor.log_path(instance)
            # A keep that is undone takes its log along.
            for line in tail(log, 40).splitlines():
                _logger.warning("keep %s did not start: %s", entry.id, line)
            raise KeepStartError(f"{error.result}: {error}{said_last(log)}") from None
        finally:
            # Taken by the keep, or not wanted any more.
            if (left := self._offers.pop(instance, None)) is not None:
                left.close()
        fault_point("launch:started")
        facts = await self.verify(entry, status)
        fault_point("launch:verified")
        self._ready(entry, status, facts, kind, actor)

    async def take_offer(self, hello: Hello) -> Offer:
        """What a starting keep is to get, given away once. Raises `HandoverRefusedError`.

        A unit that systemd started again without its stored socket gets a new one at the same endpoint.
        """
        if (offer := self._offers.pop(hello.instance, None)) is not None:
            return offer
        entry = self.of_instance(hello.instance)
        if entry is None or entry.row.desired is not Desired.RUNNING:
            raise HandoverRefusedError(f"{hello.instance} is not meant to run")
        status = await self.supervisor.status(hello.instance)
        if status is None or status.active is not ActiveState.ACTIVATING or status.invocation != hello.invocation:
            raise HandoverRefusedError(f"{hello.instance} is not starting in the life {hello.invocation[:64]!r}")
        try:
            listener = bind_recorded(entry.row.endpoint)
        except EndpointTakenError as error:
            raise HandoverRefusedError(f"endpoint-taken: {error}") from None
        return await self._offering.make(entry, listener)

    async def verify(self, entry: KeepEntry, status: UnitStatus, attempts: int = 1) -> PublishedFacts:
        """What the keep published in this life, after its key answered at its endpoint. Raises `KeepStartError`."""
        if status.active is not ActiveState.ACTIVE or status.invocation is None:
            raise KeepStartError(f"{status.result}: the unit is {status.active}, not active")
        try:
            facts = self.published(entry, status.invocation)
            for attempt in range(1, attempts + 1):
                try:
                    await check_endpoint(entry.row.endpoint, facts.spki_sha256)
                    return facts
                except ProbeError:
                    # A host under load answers late; another key stays another key.
                    if attempt == attempts:
                        raise
                    await asyncio.sleep(PROBE_PAUSE)
            raise AssertionError("attempts is positive")
        except (KeepFileError, ProbeError) as error:
            raise KeepStartError(f"unverified: {error}") from None

    def published(self, entry: KeepEntry, invocation: str) -> PublishedFacts:
        """The keep's own word about this life. Raises `KeepFileError`."""
        return read_keep_file(self.supervisor.paths.runtime / "keeps" / self.instance(entry), invocation)

    async def halt(self, entry: KeepEntry, actor: str | None) -> None:
        """Stop a keep and leave it stopped. Raises `SupervisorUnavailableError`: then it is stopped later."""
        self.record(entry, replace(entry.row, desired=Desired.STOPPED, state=KeepState.STOPPING, reason=None))
        await self.supervisor.stop(self.instance(entry))
        await self._brokers.stop(entry)
        self.record(entry, replace(entry.row, state=KeepState.STOPPED), "keep-stopped", actor=actor)

    async def erase(self, entry: KeepEntry, actor: str | None, detail: dict[str, str] | None = None) -> None:
        """Stop, wipe and forget a keep. Raises `SupervisorUnavailableError`: then it is finished later."""
        instance = self.instance(entry)
        row = replace(entry.row, desired=Desired.REMOVED, phase=Phase.REMOVING, state=KeepState.REMOVING)
        try:
            self.record(entry, row)
        except StoreFullError:
            # Removing keeps is how an operator makes room again.
            self._reserve.release()
            self.record(entry, row)
        fault_point("remove:announced")
        await self.supervisor.stop(instance)
        await self._brokers.stop(entry)
        fault_point("remove:stopped")
        await self.supervisor.wipe(instance)
        self._links.remove(instance)
        # A TPM may be slow, or busy with another keep.
        await asyncio.to_thread(self._offering.forget, entry)
        fault_point("remove:wiped")
        # Only a keep that was ready once has ever been promised to anybody.
        kind = "create-undone" if entry.row.invocation is None else "keep-removed"
        self._store.forget(entry.id, NewEvent(kind, entry.id, entry.owner, actor, detail))
        self._reserve.fill()
        self.entries.pop(entry.id, None)
        self._events.announce()
        _logger.info("keep %s: %s", entry.id, kind)
        fault_point("remove:forgotten")

    def fail(self, entry: KeepEntry, reason: str) -> None:
        """Record that a keep is not what it is meant to be, once for the same reason."""
        if entry.row.state is KeepState.FAILED and entry.row.reason == reason:
            entry.state, entry.reason = KeepState.FAILED, reason
            return
        row = replace(entry.row, state=KeepState.FAILED, reason=reason)
        self.record(entry, row, "keep-failed", detail={"reason": reason})

    async def follow(self, entry: KeepEntry, *, start_missing: bool) -> None:
        """Bring record and unit together, whatever happened to either; takes the keep's lock.

        An announced creation is finished if its keep is sound, else undone: nobody was told of it yet. A keep
        that is meant to run and does not is started if `start_missing`, else it was stopped behind our back.
        """
        async with entry.lock:
            if self.entries.get(entry.id) is not entry:
                return
            instance = self.instance(entry)
            status = await self.supervisor.status(instance) or _absent(instance)
            if entry.row.phase is Phase.REMOVING:
                await self.erase(entry, None)
            elif entry.row.phase is Phase.CREATING:
                await self._finish_creation(entry, status)
            elif entry.row.desired is Desired.STOPPED:
                await self._keep_stopped(entry, status)
            else:
                await self._keep_running(entry, status, start_missing=start_missing)

    def recognise(self, entry: KeepEntry, status: UnitStatus) -> bool:
        """Take a living keep for ready at once if it is in the very life, with the very key, that was verified."""
        row = entry.row
        same_life = status.active is ActiveState.ACTIVE and status.invocation == row.invocation
        if not same_life or row.state is not KeepState.READY or row.phase is not Phase.SETTLED or not row.certificate:
            return False
        if row.desired is not Desired.RUNNING or row.invocation is None:
            return False
        try:
            facts = self.published(entry, row.invocation)
        except KeepFileError as error:
            _logger.warning("keep %s: %s", entry.id, error)
            return False
        if facts.spki_sha256 != spki_digest(x509.load_pem_x509_certificate(row.certificate.encode())):
            return False
        self._show(entry, status, facts)
        entry.state, entry.reason = KeepState.READY, None
        return True

    async def confirm(self, entry: KeepEntry) -> None:
        """Check that the key of a recognised keep still answers; otherwise it is `failed`."""
        invocation, spki = entry.row.invocation, entry.spki_sha256
        for attempt in range(1, PROBE_ATTEMPTS + 1):
            try:
                if spki is not None:
                    await check_endpoint(entry.row.endpoint, spki)
                return
            except ProbeError as error:
                if attempt < PROBE_ATTEMPTS:
                    await asyncio.sleep(PROBE_PAUSE)
                    continue
                async with entry.lock:
                    # It may have been stopped or restarted while we looked.
                    if entry.row.invocation == invocation and entry.state is KeepState.READY:
                        self.fail(entry, f"unverified: {error}")

    def refresh_certificate(self, entry: KeepEntry) -> None:
        """Take over a certificate that the keep has renewed with the same key. Raises `KeepFileError`."""
        if entry.state is KeepState.READY and entry.row.invocation is not None:
            facts = self.published(entry, entry.row.invocation)
            if facts.certificate != entry.row.certificate and facts.spki_sha256 == entry.spki_sha256:
                self.record(entry, replace(entry.row, certificate=facts.certificate))

    def of_instance(self, instance: str) -> KeepEntry | None:
        """The keep of this deployment whose unit has this instance name."""
        deployment, keep_id = keep_of_instance(instance)
        return self.entries.get(keep_id) if deployment == self._settings.deployment else None

    async def _finish_creation(self, entry: KeepEntry, status: UnitStatus) -> None:
        try:
            facts = await self.verify(entry, status, PROBE_ATTEMPTS)
        except KeepStartError as error:
            await self.erase(entry, None, {"reason": f"the manager ended while it was made; {error}"})
        else:
            self._ready(entry, status, facts, "keep-ready", None)

    async def _keep_stopped(self, entry: KeepEntry, status: UnitStatus) -> None:
        if status.active in (ActiveState.INACTIVE, ActiveState.FAILED):
            if entry.row.state is not KeepState.STOPPED:
                self.record(entry, replace(entry.row, state=KeepState.STOPPED, reason=None), "keep-stopped")
            entry.state, entry.pid = KeepState.STOPPED, None
        else:
            await self.halt(entry, None)

    async def _keep_running(self, entry: KeepEntry, status: UnitStatus, *, start_missing: bool) -> None:
        match status.active:
            case ActiveState.ACTIVE:
                await self._brokers.ensure(entry)
                await self._check_life(entry, status)
            case ActiveState.ACTIVATING:
                entry.state, entry.reason, entry.pid, entry.restarts = (
                    *(KeepState.STARTING, None),
                    *(status.main_pid, status.restarts),
                )
            case ActiveState.DEACTIVATING:
                entry.state, entry.pid = KeepState.STOPPING, status.main_pid
            case ActiveState.FAILED:
                said = f"start the keep{said_last(self.supervisor.log_path(status.instance))}"
                self.fail(entry, f"{status.result}: the unit failed after {status.restarts} restarts; {said}")
            case ActiveState.INACTIVE if start_missing:
                await self._revive(entry)
            case ActiveState.INACTIVE if entry.row.state is not KeepState.FAILED:
                self.fail(entry, "stopped-outside: its unit was stopped, and not by this manager; start the keep")

    async def _check_life(self, entry: KeepEntry, status: UnitStatus) -> None:
        same_life = status.invocation == entry.row.invocation
        if same_life and entry.state is KeepState.READY and entry.spki_sha256 is not None:
            entry.pid, entry.restarts = status.main_pid, status.restarts
            return
        try:
            facts = await self.verify(entry, status, PROBE_ATTEMPTS)
        except KeepStartError as error:
            self.fail(entry, str(error))
        else:
            if same_life and entry.row.state is KeepState.READY:
                self._show(entry, status, facts)
                entry.state, entry.reason = KeepState.READY, None
            else:
                self._ready(entry, status, facts, "keep-ready" if same_life else "keep-restarted", None)

    async def _revive(self, entry: KeepEntry) -> None:
        entry.state, entry.reason = KeepState.STARTING, None
        try:
            await self.launch(entry, kind="keep-restarted")
        except EndpointTakenError as error:
            self.fail(entry, f"endpoint-taken: {error}")
        except OSError as error:
            self.fail(entry, f"endpoint-unusable: {entry.row.endpoint}: {error.strerror}")
        except KeepStartError as error:
            self.fail(entry, str(error))

    def _ready(self, entry: KeepEntry, status: UnitStatus, facts: PublishedFacts, kind: str, actor: str | None) -> None:
        row = replace(
            entry.row,
            phase=Phase.SETTLED,
            state=KeepState.READY,
            reason=None,
            invocation=status.invocation,
            certificate=facts.certificate,
        )
        self._show(entry, status, facts)
        answer = None
        if entry.row.phase is Phase.CREATING:
            answer = msgspec.json.encode(
                msgspec.structs.replace(
                    entry.wire(stale=False),
                    state=row.state,
                    reason=None,
                    invocation=row.invocation,
                    certificate=row.certificate,
                )
            )
        self.record(entry, row, kind, actor=actor, answer=answer, detail={"endpoint": row.endpoint})

    def _show(self, entry: KeepEntry, status: UnitStatus, facts: PublishedFacts) -> None:
        entry.pid, entry.restarts = status.main_pid, status.restarts
        entry.spki_sha256, entry.sandbox, entry.start = facts.spki_sha256, facts.sandbox, facts.start


def _absent(instance: str) -> UnitStatus:
    """What a unit that is not loaded amounts to."""
    return UnitStatus(instance, ActiveState.INACTIVE, "dead", "success", None, None, 0)
