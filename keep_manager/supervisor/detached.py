"""The stand-in for systemd where none can run: a parent process per keep, and one per network broker.

It bounds nothing and seals nothing; `promises` says so, and whoever chooses it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from keep_manager.supervisor.broker_folder import BrokerFolder
from keep_manager.supervisor.detached_parents import DetachedParents
from keep_manager.supervisor.interface import (
    Promises,
    SandboxReport,
    SupervisorKind,
    SupervisorPaths,
    UnitKind,
    UnitStatus,
)
from keep_manager.supervisor.private_instance import prepare_runtime, runtime_directory
from keep_protocol.memory_folder import SHARED_MEMORY, memory_folder_of
from keep_protocol.removal import exhaust, remove_tree
from keep_protocol.spec import Limits

_HANDOVER_TIMEOUT = 3.0


class DetachedSupervisor:
    """Keeps as children of parent processes of their own."""

    def __init__(self, state: Path, deployment: str, reason: str) -> None:
        self._reason = reason
        runtime = runtime_directory(deployment)
        self._base = runtime
        self._paths = SupervisorPaths(runtime / "wasmkeep", state / "wasmkeep" / "keeps", state / "logs")
        self._changes: asyncio.Queue[UnitStatus | None] = asyncio.Queue()
        report = self._changes.put_nowait
        self._keeps = DetachedParents(UnitKind.KEEP, self._paths.runtime / "keeps", report)
        self._brokers = DetachedParents(UnitKind.BROKER, self._paths.runtime / "brokers", report)
        self._connected = False

    @property
    def kind(self) -> SupervisorKind:
        """Always `detached`."""
        return SupervisorKind.DETACHED

    @property
    def reason(self) -> str:
        """Why it was taken."""
        return self._reason

    @property
    def paths(self) -> SupervisorPaths:
        """Where its keeps' files are."""
        return self._paths

    @property
    def promises(self) -> Promises:
        """No limits, no sandbox, one uid."""
        return Promises(limits=frozenset(), sandbox=False, own_uid=False, restarts_killed_keeps=True)

    @property
    def alive(self) -> bool:
        """It is this process, so it answers."""
        return self._connected

    async def connect(self) -> None:
        """Find the parents that an earlier manager started."""
        prepare_runtime(self._base)
        for folder in (self._paths.state, self._paths.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.gather(self._keeps.find(), self._brokers.find())
        self._connected = True

    async def close(self) -> None:
        """Let go of the parents; they live on."""
        await asyncio.gather(self._keeps.close(), self._brokers.close())
        self._changes.put_nowait(None)
        self._connected = False

    async def shut_down(self) -> None:
        """Stop all keeps and remove the runtime directory."""
        await asyncio.gather(self._keeps.stop_all(), self._brokers.stop_all())
        for folder in self._paths.state.iterdir():
            await asyncio.to_thread(self._forget_memory, folder.name)
        await self.close()
        await asyncio.to_thread(shutil.rmtree, self._base, True)

    async def list(self) -> dict[str, UnitStatus]:
        """All keeps whose parents live."""
        return self._keeps.statuses()

    async def status(self, instance: str) -> UnitStatus | None:
        """One keep, or None when it has no parent."""
        return self._keeps.statuses().get(instance)

    async def start(self, instance: str, limits: Limits) -> UnitStatus:
        """Start a parent and wait until its keep is ready; `limits` are not enforced here."""
        state = self._paths.state / instance
        state.mkdir(mode=0o700, exist_ok=True)
        host = self._paths.runtime / "hosts" / instance
        broker = self._broker_folder(instance).path
        return await self._keeps.start(instance, str(broker), str(state), str(host), log=self.log_path(instance))

    async def stop(self, instance: str) -> None:
        """Stop a keep and wait until its parent is gone."""
        await self._keeps.stop(instance)
        await asyncio.to_thread(self._forget_memory, instance)

    async def brokers(self) -> dict[str, UnitStatus]:
        """All brokers whose parents live."""
        return self._brokers.statuses()

    async def start_broker(self, instance: str, configuration: bytes) -> UnitStatus:
        """Start a parent and wait until its broker is ready."""
        folder = self._broker_folder(instance)
        folder.write(configuration)
        folder.socket.mkdir(mode=0o700, exist_ok=True)
        return await self._brokers.start(instance, str(folder.path), log=self.log_path(instance))

    async def stop_broker(self, instance: str) -> None:
        """Stop a broker and remove its folders."""
        await self._brokers.stop(instance)
        self._broker_folder(instance).remove()
        shutil.rmtree(self._brokers.folder(instance), ignore_errors=True)

    async def instance_of(self, pid: int) -> str | None:
        """The instance whose keep process `pid` is.

        A keep asks as soon as it lives, which may be before its parent has told us of it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANDOVER_TIMEOUT):
                while True:
                    for name, status in self._keeps.statuses().items():
                        if status.main_pid == pid:
                            return name
                    await asyncio.sleep(0.01)
        return None

    async def changes(self) -> AsyncIterator[UnitStatus]:
        """Changes as the parents report them."""
        while (status := await self._changes.get()) is not None:
            yield status

    async def wipe(self, instance: str) -> None:
        """Remove a stopped keep's files."""

        def remove() -> None:
            for folder in (self._paths.state / instance, self._keeps.folder(instance)):
                if folder.is_dir() and not folder.is_symlink():
                    exhaust(remove_tree(folder))
            self._forget_memory(instance)
            (self._paths.runtime / "hosts" / instance).unlink(missing_ok=True)
            self.log_path(instance).unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    def _forget_memory(self, instance: str) -> None:
        """What a keep that was killed left in memory: there is no unit with which it would go."""
        shutil.rmtree(memory_folder_of(self._paths.state / instance, SHARED_MEMORY), ignore_errors=True)

    async def sandbox(self, *, machine: bool) -> SandboxReport:
        """There is none."""
        return SandboxReport((), (), "")

    def log_path(self, instance: str) -> Path:
        """Where the keep's standard output and error go."""
        return self._paths.logs / f"{instance}.log"

    def _broker_folder(self, instance: str) -> BrokerFolder:
        return BrokerFolder(self._paths.runtime, instance)
