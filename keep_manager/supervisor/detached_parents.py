"""The parent processes that stand for systemd: started, found again by pidfd and start time, followed, stopped."""

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from keep_manager.errors import SupervisorUnavailableError, UnitStartError
from keep_manager.supervisor.interface import ActiveState, UnitKind, UnitStatus
from keep_protocol.detached import MAX_MESSAGE, DetachedCommand, DetachedStatus, LoaderFile, start_time
from keep_protocol.names import is_machine_instance

_START_TIMEOUT = 40.0
_MACHINE_START_TIMEOUT = 240.0
_FIND_TIMEOUT = 2.0
"""For a parent that the last manager was just starting; without one its folder is only what that manager left."""
_STOP_TIMEOUT = 20.0


@dataclass(slots=True)
class Parent:
    """A parent process that we are connected to."""

    pidfd: int
    connection: socket.socket
    status: UnitStatus
    changed: asyncio.Condition
    ended: bool = False


class DetachedParents:
    """The parents of one kind of units, each with a folder of its own below `base`."""

    def __init__(self, kind: UnitKind, base: Path, report: Callable[[UnitStatus], None]) -> None:
        """`report` gets every change."""
        self._kind = kind
        self._base = base
        self._report_change = report
        self._parents: dict[str, Parent] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    def folder(self, instance: str) -> Path:
        """The folder of one parent."""
        return self._base / instance

    def statuses(self) -> dict[str, UnitStatus]:
        """Those that live, by instance."""
        return {instance: parent.status for instance, parent in self._parents.items()}

    async def find(self) -> None:
        """Connect to those that an earlier manager started."""
        self._base.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = [folder.name for folder in self._base.iterdir()]
        await asyncio.gather(*(self._find(instance) for instance in known if instance not in self._parents))

    async def close(self) -> None:
        """Let go of them; they live on."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for parent in self._parents.values():
            parent.connection.close()
            os.close(parent.pidfd)
        self._parents.clear()

    async def stop_all(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(self.stop(instance) for instance in list(self._parents)))

    async def start(self, instance: str, *arguments: str, log: Path) -> UnitStatus:
        """Start a parent with these arguments and wait until its child is ready. Raises `UnitStartError`."""
        await self.stop(instance)
        await asyncio.to_thread(self._spawn, instance, arguments, log)
        parent = await self._attach(instance, _START_TIMEOUT)
        try:
            patience = _MACHINE_START_TIMEOUT if is_machine_instance(instance) else _START_TIMEOUT
            async with asyncio.timeout(patience), parent.changed:
                await parent.changed.wait_for(
                    lambda: parent.ended or parent.status.active is ActiveState.ACTIVE or parent.status.restarts > 0
                )
        except TimeoutError:
            raise UnitStartError(instance, "timeout") from None
        if parent.status.active is not ActiveState.ACTIVE:
            raise UnitStartError(instance, parent.status.result)
        return parent.status

    async def stop(self, instance: str) -> None:
        """Stop one and wait until it is gone."""
        parent = self._parents.get(instance)
        if parent is None:
            return
        with contextlib.suppress(OSError):
            parent.connection.send(msgspec.json.encode(DetachedCommand(command="stop")))
        try:
            async with asyncio.timeout(_STOP_TIMEOUT), parent.changed:
                await parent.changed.wait_for(lambda: parent.ended)
        except TimeoutError:
            # Its child has PDEATHSIG set and follows it.
            signal.pidfd_send_signal(parent.pidfd, signal.SIGKILL)
            async with parent.changed:
                await parent.changed.wait_for(lambda: parent.ended)

    async def _find(self, instance: str) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError, SupervisorUnavailableError):
            await self._attach(instance, _FIND_TIMEOUT)

    def _spawn(self, instance: str, arguments: tuple[str, ...], log: Path) -> None:
        folder = self.folder(instance)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        with log.open("ab") as output:
            subprocess.run(
                [sys.executable, "-I", "-m", "keep_loader.detached", self._kind, instance, str(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                check=True,
            )

    async def _attach(self, instance: str, patience: float) -> Parent:
        folder = self.folder(instance)
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
            status = self._status(instance, first)
        except BaseException:
            connection.close()
            os.close(pidfd)
            raise
        parent = Parent(pidfd, connection, status, asyncio.Condition())
        self._parents[instance] = parent
        watcher = asyncio.create_task(self._watch(instance, parent))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return parent

    async def _watch(self, instance: str, parent: Parent) -> None:
        loop = asyncio.get_running_loop()
        while message := await _receive(loop, parent.connection):
            await self._report(parent, self._status(instance, message))
        gone = replace(parent.status, main_pid=None, invocation=None, restarts=0)
        ended = replace(gone, active=ActiveState.INACTIVE, sub="dead")
        if parent.status.active not in (ActiveState.DEACTIVATING, ActiveState.INACTIVE):
            ended = replace(gone, active=ActiveState.FAILED, sub="failed", result="signal")
        self._parents.pop(instance, None)
        parent.connection.close()
        os.close(parent.pidfd)
        parent.ended = True
        await self._report(parent, ended)

    async def _report(self, parent: Parent, status: UnitStatus) -> None:
        async with parent.changed:
            parent.status = status
            parent.changed.notify_all()
        self._report_change(status)

    def _status(self, instance: str, message: bytes) -> UnitStatus:
        status = msgspec.json.decode(message, type=DetachedStatus)
        return UnitStatus(
            instance=instance,
            active=ActiveState(status.active),
            sub=status.sub,
            result=status.result,
            main_pid=status.main_pid or None,
            invocation=status.invocation or None,
            restarts=status.restarts,
            kind=self._kind,
        )


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
