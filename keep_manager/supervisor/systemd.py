"""systemd as the supervisor of keeps: system, user and private instance are one class at three addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from keep_manager.errors import SupervisorUnavailableError, UnitStartError
from keep_manager.supervisor.broker_folder import BrokerFolder
from keep_manager.supervisor.bus_client import BusClient, BusError
from keep_manager.supervisor.cgroups import delegated_limits
from keep_manager.supervisor.frames import Operation, UnitProperties
from keep_manager.supervisor.interface import (
    ActiveState,
    Promises,
    SandboxReport,
    SupervisorKind,
    SupervisorPaths,
    UnitKind,
    UnitStatus,
)
from keep_manager.supervisor.sandbox_probe import PROBE_INSTANCE, ProbeFiles, directives, probe
from keep_manager.supervisor.static_users import StaticUsers
from keep_manager.supervisor.units import KeepUnit, KeepUser, render_keep_unit, render_machine_unit
from keep_protocol.names import is_machine_instance, unit_name
from keep_protocol.removal import exhaust, remove_tree
from keep_protocol.spec import Limits

_PING_INTERVAL = 1.0
_PING_TIMEOUT = 1.5
_JOB_TIMEOUT = 60.0
_MACHINE_JOB_TIMEOUT = 240.0
"""A machine that is translated and measured boots slowly on a busy host; TimeoutStartSec= ends it before."""
_STOP_TIMEOUT = 30.0


class Instance(Protocol):
    """A systemd instance: how to get it going, and how to end it where it is ours."""

    @property
    def bus_address(self) -> Path: ...

    async def ensure(self) -> None:
        """Find it or start it. Raises `SupervisorUnavailableError`."""

    async def end(self, bus: BusClient) -> None:
        """End it, if it is ours to end."""


@dataclass(frozen=True, slots=True)
class ForeignInstance:
    """An instance that the machine runs: the system manager, or a user's own."""

    bus_address: Path

    async def ensure(self) -> None:
        """Nothing to start; it is there or it is not."""
        if not self.bus_address.exists():
            raise SupervisorUnavailableError(f"no systemd listens at {self.bus_address}")

    async def end(self, bus: BusClient) -> None:
        """It is not ours."""


class SystemdSupervisor:
    """Keeps as units `keep@<instance>.service` and `keep-vm@<instance>.service` of one systemd instance."""

    def __init__(
        self,
        kind: SupervisorKind,
        reason: str,
        instance: Instance,
        paths: SupervisorPaths,
        keep_unit: KeepUnit,
        probe_files: ProbeFiles,
    ) -> None:
        self._kind = kind
        self._reason = reason
        self._instance = instance
        self._paths = paths
        self._probe_files = probe_files
        self._probing = asyncio.Lock()
        self._reports: dict[bool, SandboxReport] = {}
        self._keep_unit = keep_unit
        self._bus: BusClient | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._alive = False
        self._limits: frozenset[str] = frozenset()

    @property
    def kind(self) -> SupervisorKind:
        """Which of the three addresses this is."""
        return self._kind

    @property
    def reason(self) -> str:
        """Why it was taken."""
        return self._reason

    @property
    def paths(self) -> SupervisorPaths:
        """Where its units' files are."""
        return self._paths

    @property
    def promises(self) -> Promises:
        """What it can be relied upon for; limits as found at `connect`."""
        return Promises(
            limits=self._limits,
            sandbox=True,
            own_uid=self._keep_unit.user is not KeepUser.SHARED,
            restarts_killed_keeps=True,
        )

    @property
    def alive(self) -> bool:
        """Whether it answered the last ping."""
        return self._alive

    async def connect(self) -> None:
        """Find or start the instance and talk to it."""
        await self._disconnect()
        await self._instance.ensure()
        self._bus = await BusClient.open(self._instance.bus_address)
        self._alive = True
        self._limits = delegated_limits(_peer_pid(self._instance.bus_address))
        self._pinger = asyncio.create_task(self._ping(self._bus))

    async def close(self) -> None:
        """Let go of it; units live on."""
        await self._disconnect()

    async def shut_down(self) -> None:
        """Stop all that is ours of it."""
        bus = self._connected()
        await self._instance.end(bus)
        await self._disconnect()

    async def list(self) -> dict[str, UnitStatus]:
        """All loaded keep units."""
        return await self._units(UnitKind.KEEP)

    async def status(self, instance: str) -> UnitStatus | None:
        """One unit, or None when it is not loaded."""
        try:
            answer = await self._connected().call("status", unit_name(instance))
        except BusError as error:
            if error.name == "DBusNoSuchUnitError":
                return None
            raise
        return _status(answer.units[0])

    async def start(self, instance: str, limits: Limits) -> UnitStatus:
        """Set the limits, start, wait for READY. Raises `UnitStartError`."""
        self._prepare_user(instance, self._paths.state / instance, self._paths.runtime / "keeps" / instance)
        return await self._start(UnitKind.KEEP, instance, _cgroup_properties(limits))

    async def stop(self, instance: str) -> None:
        """Stop and wait until nothing of the unit runs."""
        await self._stop(UnitKind.KEEP, instance)

    async def brokers(self) -> dict[str, UnitStatus]:
        """All loaded units of brokers."""
        return await self._units(UnitKind.BROKER)

    async def start_broker(self, instance: str, configuration: bytes) -> UnitStatus:
        """Stop an earlier one, tell it what it may do, start, wait for READY. Raises `UnitStartError`."""
        await self._stop(UnitKind.BROKER, instance)
        folder = self._broker_folder(instance)
        folder.write(configuration)
        if self._keep_unit.user is KeepUser.STATIC:
            StaticUsers(self._paths.runtime.parent).prepare_broker(instance, folder.socket)
        return await self._start(UnitKind.BROKER, instance, {})

    async def stop_broker(self, instance: str) -> None:
        """Stop it and remove its folder."""
        await self._stop(UnitKind.BROKER, instance)
        with contextlib.suppress(BusError):
            await self._connected().call("reset", _unit(instance, UnitKind.BROKER))
        self._broker_folder(instance).remove()

    async def _units(self, kind: UnitKind) -> dict[str, UnitStatus]:
        answer = await self._connected().call("list")
        return {unit.instance: _status(unit) for unit in answer.units if unit.template == kind}

    async def _start(self, kind: UnitKind, instance: str, properties: dict[str, int]) -> UnitStatus:
        bus = self._connected()
        unit = _unit(instance, kind)
        try:
            answer = await bus.call("start", unit, limits=properties, timeout=_job_timeout(instance))
        except BusError as error:
            raise UnitStartError(unit, "refused", str(error)) from error
        status = _status(answer.units[0]) if answer.units else (await self._units(kind)).get(instance)
        if answer.text != "done" or status is None or status.active is not ActiveState.ACTIVE:
            raise UnitStartError(unit, status.result if status else answer.text)
        return status

    async def _stop(self, kind: UnitKind, instance: str) -> None:
        try:
            await self._connected().call("stop", _unit(instance, kind), timeout=_STOP_TIMEOUT)
        except BusError as error:
            if error.name != "DBusNoSuchUnitError":
                raise

    def _broker_folder(self, instance: str) -> BrokerFolder:
        return BrokerFolder(self._paths.runtime, instance)

    async def instance_of(self, pid: int) -> str | None:
        """The instance whose main process `pid` is."""
        try:
            answer = await self._connected().call("unit_of", pid=pid)
        except BusError:
            return None
        return next((unit.instance for unit in answer.units if unit.main_pid == pid), None)

    async def changes(self) -> AsyncIterator[UnitStatus]:
        """Changes as systemd signals them, until it goes away."""
        async for unit in self._connected().signals():
            yield _status(unit)

    async def wipe(self, instance: str) -> None:
        """Remove what a stopped unit leaves on disk and in systemd."""
        bus = self._connected()
        cleaning: tuple[Operation, ...] = ("reset", "revert")
        for operation in cleaning:
            with contextlib.suppress(BusError):
                await bus.call(operation, unit_name(instance))
        await asyncio.to_thread(self._remove_files, instance)

    async def sandbox(self, *, machine: bool) -> SandboxReport:
        """The directives of the keep unit, or of that for machines, and what the probe unit found of them."""
        async with self._probing:
            if (known := self._reports.get(machine)) is not None:
                return known
            self._prepare_user(PROBE_INSTANCE, self._paths.state.parent / "probe", self._paths.runtime / "probe")
            result = await probe(
                self._connected(),
                keep_unit=self._keep_unit,
                machine=machine,
                files=self._probe_files,
                systemd_pid=_peer_pid(self._instance.bus_address),
                date=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            unit_text = render_machine_unit(self._keep_unit) if machine else render_keep_unit(self._keep_unit)
            report = SandboxReport(tuple(directives(unit_text)), result.facts, result.date)
            self._reports[machine] = report
            return report

    def log_path(self, instance: str) -> Path:
        """Where the unit's standard output and error go."""
        return self._paths.logs / f"{instance}.log"

    def _prepare_user(self, instance: str, state: Path, runtime: Path) -> None:
        if self._keep_unit.user is KeepUser.STATIC:
            StaticUsers(self._paths.runtime.parent).prepare(instance, {state: 0o700, runtime: 0o711})

    def _remove_files(self, instance: str) -> None:
        state = self._paths.state / instance
        # With DynamicUser= the state folder is a link into `private/`, where only root can go.
        for folder in (state.resolve(), self._paths.runtime / "keeps" / instance):
            if folder.name == instance and folder.is_dir() and not folder.is_symlink():
                exhaust(remove_tree(folder))
        for file in (state, self._paths.runtime / "hosts" / instance, self.log_path(instance)):
            if file.is_symlink() or file.is_file():
                file.unlink(missing_ok=True)

    async def _ping(self, bus: BusClient) -> None:
        while not bus.gone.is_set():
            try:
                await bus.call("ping", timeout=_PING_TIMEOUT)
                self._alive = True
            except SupervisorUnavailableError:
                self._alive = False
            await asyncio.sleep(_PING_INTERVAL)
        self._alive = False

    async def _disconnect(self) -> None:
        if self._pinger is not None:
            self._pinger.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pinger
            self._pinger = None
        if self._bus is not None:
            await self._bus.close()
            self._bus = None
        self._alive = False

    def _connected(self) -> BusClient:
        if self._bus is None:
            raise SupervisorUnavailableError("not connected to systemd")
        return self._bus


def _unit(instance: str, kind: UnitKind) -> str:
    """The unit of an instance: of which template a keep's is, its name says."""
    return unit_name(instance) if kind is UnitKind.KEEP else f"{kind.value}@{instance}.service"


def _job_timeout(instance: str) -> float:
    return _MACHINE_JOB_TIMEOUT if is_machine_instance(instance) else _JOB_TIMEOUT


def _peer_pid(address: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(address))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _cgroup_properties(limits: Limits) -> dict[str, int]:
    return {
        "MemoryMax": limits.memory,
        # systemd counts processor time per second of wall time, in microseconds: 100 % is one second per second.
        "CPUQuotaPerSecUSec": limits.cpu * 10_000,
        "TasksMax": limits.tasks,
    }


def _status(unit: UnitProperties) -> UnitStatus:
    try:
        active = ActiveState(unit.active)
    except ValueError:
        # "reloading", "maintenance", "refreshing": none of these is a keep that serves.
        active = ActiveState.ACTIVATING
    return UnitStatus(
        instance=unit.instance,
        active=active,
        sub=unit.sub,
        result=unit.result,
        main_pid=unit.main_pid or None,
        invocation=unit.invocation if unit.invocation.strip("0") else None,
        restarts=unit.restarts,
        kind=UnitKind(unit.template),
    )
