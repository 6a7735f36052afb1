"""The server's handle of a process that serves one workload again and again: made, killed, and what its end means."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from dataclasses import dataclass

from app_loader.errors import RunnerDiedError
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Ended, ProcessUsage, Report, Serve, Work
from app_loader.usage_meter import UsageMeter
from keep_protocol.states import ExitReason

_counter = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a process went in the middle of its work: the guest's `report`, or an `error` that is not the guest's."""

    report: Report | None = None
    error: str | None = None


class WorkerProcess:
    """A child of the runner with one workload mapped; subclasses talk to it."""

    def __init__(self, runner: Runner, module: str, oom_kills: OomKills, work: Work) -> None:
        self.module = module
        self._runner = runner
        self._oom_kills = oom_kills
        self._work = work
        self._name = f"{work.value}-{next(_counter)}"
        self._gone: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._killed = False
        self._meter = UsageMeter()
        self.used: ProcessUsage | None = None
        """By its last work, once that is over."""
        self.retirement: asyncio.TimerHandle | None = None
        """Ends it when it has had nothing to do for a while."""

    @property
    def usable(self) -> bool:
        """Whether it lives, as far as is known, and was not killed."""
        return not self._killed and not self._gone.done()

    @property
    def pid(self) -> int | None:
        """Of its process, while that lives."""
        return self._runner.pids.get(self._name)

    async def start(self) -> None:
        """Make the process. Raises `RunnerDiedError`."""
        ours, theirs = socket.socketpair()
        descriptors = (theirs.detach(), *self._further_descriptors())
        try:
            self._runner.spawn(Serve(self._name, self.module, self._work), descriptors, self._note_end)
        except RunnerDiedError:
            ours.close()
            raise
        ours.setblocking(False)
        await self._talk_over(ours)

    def kill(self) -> None:
        """End the process."""
        if self.retirement is not None:
            self.retirement.cancel()
        self._hang_up()
        if self.usable:
            if self.used is None:
                self.used = self._meter.so_far(self.pid)
            self._killed = True
            self._runner.kill(self._name)

    async def ending(self) -> Ending:
        """What the end of the process means, when it has come, for what it was at."""
        event = await asyncio.shield(self._gone)
        return Ending(error="its process was ended") if self._killed else ending_of(event, self._oom_kills)

    def begin_work(self) -> None:
        """A call or a request is about to be sent."""
        self.used = None
        self._meter.begin(self.pid)

    def end_work(self, used: ProcessUsage, total: float) -> None:
        """As the process says: what the work took, and its own seconds of processor time since its start."""
        self.used = used
        self._meter.end(total)

    def _note_end(self, event: Ended) -> None:
        if event.usage is not None and self.used is None:
            self.used = self._meter.of(event.usage)
        self._meter.close()
        self._gone.set_result(event)

    def _further_descriptors(self) -> tuple[int, ...]:
        """What the process gets besides its socket; the caller closes them."""
        return ()

    async def _talk_over(self, connected: socket.socket) -> None:
        """Begin to use the socket to the process, which is ours to close."""
        raise NotImplementedError

    def _hang_up(self) -> None:
        """Close the socket, if it is still open, and let whoever waits for an answer know."""
        raise NotImplementedError


def ending_of(event: Ended, oom_kills: OomKills) -> Ending:
    """What the end of a process means that we did not kill, and that said nothing itself."""
    if event.signal is None:
        return Ending(error=event.error or f"its process ended with {event.code}")
    name = signal.Signals(event.signal).name
    if event.signal == signal.SIGKILL and oom_kills.claim():
        message = "the kernel ended the guest, because the keep was out of memory"
        return Ending(Report(ExitReason.MEMORY, message=message))
    return Ending(Report(ExitReason.TRAP, message=f"the guest's process was ended by {name}"))
