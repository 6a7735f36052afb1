"""The stand-in for systemd where none can run: a parent process per keep, found again by pidfd and start time.

It bounds nothing and seals nothing; `promises` says so, and whoever chooses it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keep_manager.errors import SupervisorUnavailableError, UnitStartError
from keep_manager.supervisor.interface import (
    ActiveState,
    Promises,
    SandboxReport,
    SupervisorKind,
    SupervisorPaths,
    UnitStatus,
)
from keep_manager.supervisor.private_instance import prepare_runtime, runtime_directory
from keep_protocol.detached import MAX_MESSAGE, DetachedCommand, DetachedStatus, LoaderFile, start_time
from keep_protocol.memory_folder import SHARED_MEMORY, memory_folder_of
from keep_protocol.removal import exhaust, remove_tree
from keep_protocol.spec import Limits

_START_TIMEOUT = 40.0
_FIND_TIMEOUT = 2.0
"""For a parent that the last manager was just starting; without one its folder is only what that manager left."""
_STOP_TIMEOUT = 20.0
_HANDOVER_TIMEOUT = 3.0


@dataclass(slots=True)
class _Loader:
    """A keep's parent process that we are connected to."""

    pidfd: int
    connection: socket.socket
    status: UnitStatus
    changed: asyncio.Condition
    ended: bool = False


class DetachedSupervisor:
    """Keeps as children of parent processes of their own."""

    def __init__(self, state: Path, deployment: str, reason: str) -> None:
        self._reason = reason
        runtime = runtime_directory(deployment)
        self._base = runtime
        self._paths = SupervisorPaths(runtime / "wasmkeep", state / "wasmkeep" / "keeps", state / "logs")
        self._loaders: dict[str, _Loader] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._changes: asyncio.Queue[UnitStatus | None] = asyncio.Queue()
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
        for folder in (self._paths.runtime / "keeps", self._paths.state, self._paths.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = [folder.name for folder in (self._paths.runtime / "keeps").iterdir()]
        await asyncio.gather(*(self._find(instance) for instance in known if instance not in self._loaders))
        self._connected = True

    async def _find(self, instance: str) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError, SupervisorUnavailableError):
            await self._attach(instance, _FIND_TIMEOUT)

    async def close(self) -> None:
        """Let go of the parents; they live on."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for loader in self._loaders.values():
            loader.connection.close()
            os.close(loader.pidfd)
        self._loaders.clear()
        self._changes.put_nowait(None)
        self._connected = False

    async def shut_down(self) -> None:
        """Stop all keeps and remove the runtime directory."""
        await asyncio.gather(*(self.stop(instance) for instance in list(self._loaders)))
        await self.close()
        await asyncio.to_thread(shutil.rmtree, self._base, True)

    async def list(self) -> dict[str, UnitStatus]:
        """All keeps whose parents live."""
        return {instance: loader.status for instance, loader in self._loaders.items()}

    async def status(self, instance: str) -> UnitStatus | None:
        """One keep, or None when it has no parent."""
        loader = self._loaders.get(instance)
        return loader.status if loader else None

    async def start(self, instance: str, limits: Limits) -> UnitStatus:
        """Start a parent and wait until its keep is ready; `limits` are not enforced here."""
        if instance in self._loaders:
            await self.stop(instance)
        await asyncio.to_thread(self._spawn, instance)
        loader = await self._attach(instance, _START_TIMEOUT)
        try:
            async with asyncio.timeout(_START_TIMEOUT), loader.changed:
                await loader.changed.wait_for(
                    lambda: loader.ended or loader.status.active is ActiveState.ACTIVE or loader.status.restarts > 0
                )
        except TimeoutError:
            raise UnitStartError(instance, "timeout") from None
        if loader.status.active is not ActiveState.ACTIVE:
            raise UnitStartError(instance, loader.status.result)
        return loader.status

    async def stop(self, instance: str) -> None:
        """Stop a keep and wait until its parent is gone."""
        loader = self._loaders.get(instance)
        if loader is None:
            return
        with contextlib.suppress(OSError):
            loader.connection.send(msgspec.json.encode(DetachedCommand(command="stop")))
        try:
            async with asyncio.timeout(_STOP_TIMEOUT), loader.changed:
                await loader.changed.wait_for(lambda: loader.ended)
        except TimeoutError:
            # Its keep has PDEATHSIG set and follows it.
            signal.pidfd_send_signal(loader.pidfd, signal.SIGKILL)
            async with loader.changed:
                await loader.changed.wait_for(lambda: loader.ended)

    async def instance_of(self, pid: int) -> str | None:
        """The instance whose keep process `pid` is.

        A keep asks as soon as it lives, which may be before its parent has told us of it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANDOVER_TIMEOUT):
                while True:
                    for name, loader in self._loaders.items():
                        if loader.status.main_pid == pid:
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
            for folder in (self._paths.state / instance, self._paths.runtime / "keeps" / instance):
                if folder.is_dir() and not folder.is_symlink():
                    exhaust(remove_tree(folder))
            # There is no unit whose memory would go with it.
            shutil.rmtree(memory_folder_of(self._paths.state / instance, SHARED_MEMORY), ignore_errors=True)
            (self._paths.runtime / "hosts" / instance).unlink(missing_ok=True)
            self.log_path(instance).unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    async def sandbox(self) -> SandboxReport:
        """There is none."""
        return SandboxReport((), (), "")

    def log_path(self, instance: str) -> Path:
        """Where the keep's standard output and error go."""
        return self._paths.logs / f"{instance}.log"

    def _spawn(self, instance: str) -> None:
        folder = self._paths.runtime / "keeps" / instance
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        state = self._paths.state / instance
        state.mkdir(mode=0o700, exist_ok=True)
        host = self._paths.runtime / "hosts" / instance
        with self.log_path(instance).open("ab") as log:
            subprocess.run(
                [sys.executable, "-I", "-m", "keep_loader.detached", instance, str(folder), str(state), str(host)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                check=True,
            )

    async def _attach(self, instance: str, patience: float) -> _Loader:
        folder = self._paths.runtime / "keeps" / instance
        async with asyncio.timeout(patience):
            while not (folder / "loader.json").exists():  # noqa: ASYNC110 - the parent appears as a file
                await asyncio.sleep(0.01)
        pidfd, pid = _open_process(folder / "loader.json")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(str(folder / "control.sock"))
            peer = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if peer != pid:
                raise SupervisorUnavailableError(f"{folder}/control.sock belongs to process {peer}, not {pid}")
            first = await asyncio.get_running_loop().sock_recv(connection, MAX_MESSAGE)
            status = _status(instance, first)
        except BaseException:
            connection.close()
            os.close(pidfd)
            raise
        loader = _Loader(pidfd, connection, status, asyncio.Condition())
        self._loaders[instance] = loader
        watcher = asyncio.create_task(self._watch(instance, loader))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return loader

    async def _watch(self, instance: str, loader: _Loader) -> None:
        loop = asyncio.get_running_loop()
        while message := await _receive(loop, loader.connection):
            await self._report(loader, _status(instance, message))
        ended = UnitStatus(instance, ActiveState.INACTIVE, "dead", loader.status.result, None, None, 0)
        if loader.status.active not in (ActiveState.DEACTIVATING, ActiveState.INACTIVE):
            ended = UnitStatus(instance, ActiveState.FAILED, "failed", "signal", None, None, 0)
        self._loaders.pop(instance, None)
        loader.connection.close()
        os.close(loader.pidfd)
        loader.ended = True
        await self._report(loader, ended)

    async def _report(self, loader: _Loader, status: UnitStatus) -> None:
        async with loader.changed:
            loader.status = status
            loader.changed.notify_all()
        self._changes.put_nowait(status)


async def _receive(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(connection, MAX_MESSAGE)
    except OSError:
        return b""


def _open_process(file: Path) -> tuple[int, int]:
    """A pidfd of the process that wrote `file`. Raises `SupervisorUnavailableError` when it is gone."""
    known = msgspec.json.decode(file.read_bytes(), type=LoaderFile)
    if known.boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
        raise SupervisorUnavailableError(f"{file} is from before the last boot")
    try:
        pidfd = os.pidfd_open(known.pid)
    except ProcessLookupError:
        raise SupervisorUnavailableError(f"process {known.pid} of {file} is gone") from None
    # Only now: from here on the pid cannot be given to another process unnoticed.
    try:
        same = start_time(Path(f"/proc/{known.pid}/stat").read_text()) == known.start_time
    except OSError:
        same = False
    if not same:
        os.close(pidfd)
        raise SupervisorUnavailableError(f"process {known.pid} is not the one that wrote {file}")
    return pidfd, known.pid


def _status(instance: str, message: bytes) -> UnitStatus:
    status = msgspec.json.decode(message, type=DetachedStatus)
    return UnitStatus(
        instance=instance,
        active=ActiveState(status.active),
        sub=status.sub,
        result=status.result,
        main_pid=status.main_pid or None,
        invocation=status.invocation or None,
        restarts=status.restarts,
    )
