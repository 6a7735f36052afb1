"""The process of a command that answers one request: its pipes, and how it ended."""

from __future__ import annotations

import asyncio
import itertools
import os

import msgspec

from app_loader.errors import RunnerDiedError
from app_loader.oom import OomKills
from app_loader.process_usage import live_usage
from app_loader.runner import Runner, close_all
from app_loader.runner_messages import Assignment, Ended, ProcessUsage, Report, Start
from app_loader.worker_process import Ending, ending_of
from keep_protocol.strict_json import decode_strictly

_BLOCK = 64 * 1024
_counter = itertools.count(1)


class CommandProcess:
    """Reads what the guest writes only when somebody wants it, so a slow client holds the guest back."""

    def __init__(self, runner: Runner, oom_kills: OomKills) -> None:
        self._runner = runner
        self._oom_kills = oom_kills
        self._name = f"wagi-{next(_counter)}"
        self._gone: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._output = self._report = -1
        self._reported = b""
        self._killed = False
        self.used: ProcessUsage | None = None
        """Once it has ended, or was killed."""

    def start(self, module: str, assignment: Assignment, stdin: int, stderr: int) -> None:
        """Make the process; both descriptors are closed here. Raises `RunnerDiedError`."""
        memfd = os.memfd_create("assignment", os.MFD_CLOEXEC)
        os.write(memfd, msgspec.json.encode(assignment))
        self._output, output = os.pipe2(os.O_CLOEXEC)
        self._report, report = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)
        os.set_blocking(self._report, False)
        descriptors = (memfd, stdin, output, stderr, report)
        try:
            self._runner.spawn(Start(self._name, module), descriptors, self._gone.set_result)
        except RunnerDiedError:
            self.close()
            raise

    async def read(self) -> bytes:
        """What the guest wrote next to its standard output; empty at its end."""
        return await _read(self._output)

    async def ending(self) -> Ending:
        """What became of the guest, once its output has ended."""
        # Kept beside, as whoever waits may be cancelled and come again.
        while block := await _read(self._report):
            self._reported += block
        if self._reported:
            try:
                report = decode_strictly(self._reported, Report)
            except msgspec.DecodeError as error:
                return Ending(error=f"its report is malformed: {error}")
            self.used = report.usage
            return Ending(report)
        event = await asyncio.shield(self._gone)
        self.used = event.usage or self.used
        return ending_of(event, self._oom_kills)

    def kill(self) -> None:
        """End it; its output ends then."""
        if not self._killed and not self._gone.done():
            self._killed = True
            if self.used is None and (pid := self._runner.pids.get(self._name)) is not None:
                self.used = live_usage(pid)
            self._runner.kill(self._name)

    def close(self) -> None:
        """Nobody reads any more."""
        close_all(descriptor for descriptor in (self._output, self._report) if descriptor >= 0)
        self._output = self._report = -1


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(descriptor, _BLOCK)
        except BlockingIOError:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(descriptor, _wake, readable)
            try:
                await readable
            finally:
                loop.remove_reader(descriptor)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
