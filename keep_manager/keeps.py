"""What callers do with keeps: make, find, stop, start, restart, remove. Rules are here, states in `lifecycle`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from keep_manager.admission import (
    HostCapacity,
    check_authorities,
    check_capacity,
    check_machine,
    check_name,
    check_owner,
    check_quota,
    check_spec,
)
from keep_manager.backends import check_backend, check_evidence
from keep_manager.caller import Caller
from keep_manager.config import Settings
from keep_manager.endpoints import bind_new, endpoint_of
from keep_manager.entry import KeepEntry
from keep_manager.errors import EndpointTakenError, KeepStartError, StoreError, SupervisorUnavailableError
from keep_manager.faults import fault_point
from keep_manager.lifecycle import Lifecycle
from keep_manager.machines.machines import Machines
from keep_manager.network_admission import check_ports, check_tenant
from keep_manager.store import IdempotencyKey, KeepRow, Phase, Store, timestamp
from keep_manager.trust import Trust
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.manager_api import BackendInfo, CreateKeep, Keep
from keep_protocol.names import new_keep_id
from keep_protocol.spec import canonical
from keep_protocol.states import Desired, KeepState

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Keeps:
    """The keeps of this deployment as callers see them."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        store: Store,
        settings: Settings,
        trust: Callable[[], Trust],
        machines: Machines,
    ) -> None:
        self._lifecycle = lifecycle
        self._store = store
        self._settings = settings
        self._trust = trust
        self._machines = machines
        self._capacity = HostCapacity.measure(lifecycle.supervisor.paths.state)
        self._in_flight: dict[tuple[str, str], tuple[bytes, asyncio.Task[bytes]]] = {}
        self._acts: set[asyncio.Task[Any]] = set()
        self.orphans: frozenset[str] = frozenset()
        """Units of this deployment without a record."""
        self.foreign: frozenset[str] = frozenset()
        """Keep units of other deployments."""

    @property
    def stale(self) -> bool:
        """Whether the supervisor does not answer, so that this is what was known last."""
        return not self._lifecycle.supervisor.alive

    def all(self) -> list[KeepEntry]:
        """Every keep, oldest first."""
        return list(self._lifecycle.entries.values())

    def visible(self, caller: Caller) -> list[KeepEntry]:
        """The keeps that exist as far as the caller is told."""
        return [entry for entry in self.all() if caller.sees(entry)]

    def find(self, caller: Caller, ref: str) -> KeepEntry:
        """A keep by id, or by name: the caller's own first. Raises `RefusalError` (`keep-not-found`)."""
        return _one(self.visible(caller), caller, ref)

    def find_for_principal(self, caller: Caller, ref: str) -> KeepEntry:
        """Like `find`, and also among the keeps whose spec lets the caller in.

        Raises `RefusalError`: `forbidden` for an identity without any role, whether the keep exists or not.
        """
        ca = self._trust().client_ca
        entries = [entry for entry in self.all() if caller.sees(entry) or caller.is_principal(entry, ca)]
        if not caller.rights.roles and not entries:
            raise RefusalError(
                ErrorCode.FORBIDDEN,
                f"{caller.id} has no role here and is no principal of any keep",
                remedy="ask the operator for a role in roles.toml",
            )
        return _one(entries, caller, ref)

    async def create(self, caller: Caller, request: CreateKeep, digest: bytes, key: str | None) -> bytes:
        """Make a keep; returns the answer's JSON, the same for every repetition under one key.

        Goes on when the caller leaves: what was announced is done or undone. Raises `RefusalError`.
        """
        if key is None:
            return await self._unbroken(self._create(caller, request, None))
        place = caller.id, key
        if (running := self._in_flight.get(place)) is not None:
            _check_same(running[0], digest)
            return await asyncio.shield(running[1])
        if (earlier := self._store.idempotent(*place)) is not None:
            _check_same(earlier.request, digest)
            if earlier.answer is None:
                raise RefusalError(
                    ErrorCode.KEEP_STATE_CONFLICT,
                    "an earlier request with this key was interrupted and is being finished or undone",
                    remedy="repeat the request in a moment",
                )
            return earlier.answer
        task = asyncio.create_task(self._create(caller, request, IdempotencyKey(*place, digest)))
        self._in_flight[place] = digest, task
        task.add_done_callback(lambda _: self._in_flight.pop(place, None))
        return await self._watch(task)

    async def stop(self, caller: Caller, ref: str) -> Keep:
        """Stop a keep and leave it stopped."""
        return await self._act(caller, ref, self._stop)

    async def start(self, caller: Caller, ref: str) -> Keep:
        """Start a keep that is stopped or failed, at its own endpoint."""
        return await self._act(caller, ref, self._start)

    async def restart(self, caller: Caller, ref: str) -> Keep:
        """Stop and start a keep that is meant to run."""
        return await self._act(caller, ref, self._restart)

    async def remove(self, caller: Caller, ref: str) -> None:
        """Stop a keep, wipe what it stored, forget it."""
        entry = self._managed(caller, ref)
        await self._unbroken(self._remove(caller, entry))

    async def close(self, deadline: float) -> None:
        """Wait for the acts that are going on, then leave them to the next start."""
        if self._acts:
            _, pending = await asyncio.wait(self._acts, timeout=deadline)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    # -- making

    async def _create(self, caller: Caller, request: CreateKeep, key: IdempotencyKey | None) -> bytes:
        machines = await self._machines.backends() if request.spec.backend.is_machine else ()
        entry, listener = self._admit(caller, request, key, machines)
        async with entry.lock:
            fault_point("create:recorded")
            try:
                await self._lifecycle.run(entry, listener, kind="keep-ready", actor=caller.id)
            except KeepStartError as error:
                await self._undo(entry, caller, str(error))
                raise RefusalError(
                    ErrorCode.KEEP_START_FAILED, str(error), remedy="the keep was removed again; see the manager's log"
                ) from None
            except SupervisorUnavailableError as error:
                await self._undo(entry, caller, str(error))
                raise _unavailable(error) from None
            except Exception as error:
                await self._undo(entry, caller, f"{type(error).__name__}: {error}")
                raise
            fault_point("create:settled")
            return msgspec.json.encode(entry.wire(stale=self.stale))

    def _admit(
        self,
        caller: Caller,
        request: CreateKeep,
        key: IdempotencyKey | None,
        machines: tuple[BackendInfo, ...],
    ) -> tuple[KeepEntry, socket.socket]:
        """Check everything, bind the endpoint, announce. No await in here: two requests cannot pass one quota."""
        self._need_supervisor()
        spec, raw = request.spec, canonical(request.spec)
        keep_id = new_keep_id()
        name = f"keep-{keep_id[:8]}" if request.name is None else request.name
        entries = self.all()
        check_name(name, caller.id, entries)
        check_spec(spec, raw)
        check_authorities(spec, self._trust().authorities)
        check_capacity(spec.limits, self._capacity)
        check_backend(spec.backend, self._lifecycle.supervisor, machines)
        if spec.backend.is_machine:
            check_machine(spec)
        else:
            check_evidence(spec.evidence, self._settings.tpm)
        if not caller.is_operator:
            check_tenant(spec.network, self._settings.tenant_network)
        check_ports(spec.network, self._settings.endpoint_address, entries)
        if not caller.is_operator and caller.rights.quota is not None:
            check_quota(spec.limits, caller.rights.quota, [entry for entry in entries if entry.owner == caller.id])
        separated = self._lifecycle.supervisor.promises.own_uid or self._settings.allow_shared_uid
        check_owner(caller.id, entries, separated=separated)
        try:
            listener = bind_new(self._settings.endpoint_address, self._settings.endpoint_ports)
        except EndpointTakenError as error:
            raise RefusalError(ErrorCode.ENDPOINT_TAKEN, str(error)) from None
        fault_point("create:bound")
        row = KeepRow(
            id=keep_id,
            name=name,
            owner=caller.id,
            spec=raw,
            endpoint=endpoint_of(listener),
            created_at=timestamp(),
            desired=Desired.RUNNING,
            phase=Phase.CREATING,
            state=KeepState.CREATING,
        )
        try:
            return self._lifecycle.announce(row, key, caller.id), listener
        except BaseException:
            listener.close()
            raise

    async def _undo(self, entry: KeepEntry, caller: Caller, reason: str) -> None:
        try:
            await self._lifecycle.erase(entry, caller.id, {"reason": reason})
        except (SupervisorUnavailableError, StoreError) as undone:
            # Its making is announced: the reconciler undoes it when the supervisor answers again.
            _logger.warning("keep %s cannot be removed yet: %s", entry.id, undone)

    # -- acting on one keep

    async def _act(self, caller: Caller, ref: str, act: Callable[[Caller, KeepEntry], Awaitable[None]]) -> Keep:
        entry = self._managed(caller, ref)

        async def locked() -> Keep:
            async with entry.lock:
                self._still_there(entry)
                self._need_supervisor()
                try:
                    await act(caller, entry)
                except SupervisorUnavailableError as error:
                    raise _unavailable(error) from None
                return entry.wire(stale=self.stale)

        return await self._unbroken(locked())

    async def _stop(self, caller: Caller, entry: KeepEntry) -> None:
        if entry.row.desired is Desired.STOPPED and entry.state is KeepState.STOPPED:
            raise _conflict(entry, "stopped")
        await self._lifecycle.halt(entry, caller.id)

    async def _start(self, caller: Caller, entry: KeepEntry) -> None:
        if entry.state not in (KeepState.STOPPED, KeepState.FAILED):
            raise _conflict(entry, "started")
        await self._launch(caller, entry, "keep-ready")

    async def _restart(self, caller: Caller, entry: KeepEntry) -> None:
        if entry.row.desired is not Desired.RUNNING:
            raise _conflict(entry, "restarted")
        await self._launch(caller, entry, "keep-restarted")

    async def _launch(self, caller: Caller, entry: KeepEntry, kind: str) -> None:
        """From nothing: whatever is left of the unit is stopped first, which frees its endpoint."""
        lifecycle = self._lifecycle
        row = replace(entry.row, desired=Desired.RUNNING, state=KeepState.STARTING, reason=None)
        lifecycle.record(entry, row)
        await lifecycle.supervisor.stop(lifecycle.instance(entry))
        try:
            await lifecycle.launch(entry, kind=kind, actor=caller.id)
        except EndpointTakenError as error:
            lifecycle.fail(entry, f"endpoint-taken: {error}")
            raise RefusalError(ErrorCode.ENDPOINT_TAKEN, str(error)) from None
        except KeepStartError as error:
            lifecycle.fail(entry, str(error))
            raise RefusalError(
                ErrorCode.KEEP_START_FAILED, str(error), remedy="see the keep's log; start it again, or remove it"
            ) from None

    async def _remove(self, caller: Caller, entry: KeepEntry) -> None:
        async with entry.lock:
            if self._lifecycle.entries.get(entry.id) is not entry:
                return  # somebody else's removal, for which we waited
            self._need_supervisor()
            try:
                await self._lifecycle.erase(entry, caller.id)
            except SupervisorUnavailableError as error:
                raise _unavailable(error) from None

    def _managed(self, caller: Caller, ref: str) -> KeepEntry:
        entry = self.find(caller, ref)
        if not caller.manages(entry):
            raise RefusalError(
                ErrorCode.FORBIDDEN, f"{caller.id} may see the keep {ref} and not act on it", remedy="ask its owner"
            )
        return entry

    def _still_there(self, entry: KeepEntry) -> None:
        if self._lifecycle.entries.get(entry.id) is not entry:
            raise _not_found(entry.id)
        if entry.row.phase is not Phase.SETTLED:
            raise _conflict(entry, "acted upon")

    def _need_supervisor(self) -> None:
        if self.stale:
            raise _unavailable(None)

    async def _unbroken(self, act: Coroutine[object, object, _T]) -> _T:
        """Do an act to its end even if the caller leaves in the middle."""
        return await self._watch(asyncio.create_task(act))

    async def _watch(self, task: asyncio.Task[_T]) -> _T:
        self._acts.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._acts.discard(task)
        # Whoever left does not fetch the result, and asyncio would complain.
        if not task.cancelled():
            task.exception()


def _one(entries: list[KeepEntry], caller: Caller, ref: str) -> KeepEntry:
    for entry in entries:
        if entry.id == ref:
            return entry
    named = [entry for entry in entries if entry.row.name == ref]
    own = [entry for entry in named if entry.owner == caller.id]
    if found := own or named:
        if len(found) == 1:
            return found[0]
        raise RefusalError(
            ErrorCode.KEEP_STATE_CONFLICT, f"{len(found)} keeps are named {ref!r}", remedy="say which one by its id"
        )
    raise _not_found(ref)


def _check_same(request: bytes, digest: bytes) -> None:
    if request != digest:
        raise RefusalError(
            ErrorCode.IDEMPOTENCY_MISMATCH,
            "this Idempotency-Key was used for another request",
            field="Idempotency-Key",
            remedy="use a new key for a new request",
        )


def _not_found(ref: str) -> RefusalError:
    shown = ref if len(ref) <= 80 else f"{ref[:80]}…"
    return RefusalError(
        ErrorCode.KEEP_NOT_FOUND, f"no keep of yours has the id or name {shown!r}", remedy="list your keeps"
    )


def _conflict(entry: KeepEntry, what: str) -> RefusalError:
    return RefusalError(
        ErrorCode.KEEP_STATE_CONFLICT,
        f"the keep {entry.row.name} is {entry.state} and meant to be {entry.row.desired}: it cannot be {what}",
        remedy="look at its state first",
    )


def _unavailable(error: Exception | None) -> RefusalError:
    return RefusalError(
        ErrorCode.SUPERVISOR_UNAVAILABLE,
        f"the supervisor does not answer{f': {error}' if error else ''}",
        remedy="repeat the request when GET /v1/health says that it is alive",
    )
