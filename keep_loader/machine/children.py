"""The programs that a machine consists of: started with only the descriptors they need, dying with the keep-loader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from app_loader.kernel import PR_SET_NO_NEW_PRIVS, die_with, prctl
from keep_loader.errors import MachineError
from keep_loader.machine.console import Console

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_READ: Final = 16 * 1024


class Child:
    """One running program. Must be made in a running event loop."""

    def __init__(self, name: str, command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        """Start it with `descriptors` under their own numbers. Raises `MachineError`."""
        self.name = name
        self.said = Console()
        """What it wrote to standard output and error."""
        parent = os.getpid()

        def confine() -> None:
            """Between fork and exec. The keep-loader may be killed, and nothing of it may live on."""
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            die_with(parent, signal.SIGKILL)

        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                pass_fds=descriptors,
                preexec_fn=confine,
            )
        except OSError as error:
            raise MachineError(f"{name} cannot be started: {command[0]}: {error.strerror}") from None
        self._pidfd = os.pidfd_open(self._process.pid)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._pidfd, self._reap)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        loop.add_reader(self._output, self._hear)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, or None while it runs: negative for a signal."""
        return self._ended.result() if self._ended.done() else None

    async def ended(self) -> int:
        """Its exit status, when it has ended."""
        return await asyncio.shield(self._ended)

    async def end(self, patience: float) -> int:
        """SIGTERM, and SIGKILL after `patience` seconds; its exit status."""
        for kill in (self._process.terminate, self._process.kill):
            if not self._ended.done():
                kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await self.ended()
        return await self.ended()

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        self._hear()
        if self._output >= 0:
            self._stop_hearing()
        self._ended.set_result(status)

    def _hear(self) -> None:
        # A descriptor that reads nothing more stays readable: hearing ends with the first empty read.
        while self._output >= 0:
            try:
                written = os.read(self._output, _READ)
            except BlockingIOError:
                return
            if not written:
                self._stop_hearing()
                return
            self.said.feed(written)

    def _stop_hearing(self) -> None:
        asyncio.get_running_loop().remove_reader(self._output)
        self._output = -1
        assert self._process.stdout is not None
        self._process.stdout.close()


def exit_text(status: int) -> str:
    """`exit status 1`, or `killed by SIGSEGV`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
