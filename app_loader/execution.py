"""One run while its process lives: its pipes, its deadline, and which of all endings came first."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from app_loader.errors import RunnerDiedError
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Assignment, Ended, ProcessUsage, Report, Start
from app_loader.spool import Spool
from app_loader.standard_input import StandardInput
from app_loader.storage import PLAIN, Storage
from keep_protocol.keep_api import RunExit, RunUsage
from keep_protocol.states import ExitReason
from keep_protocol.strict_json import decode_strictly

_BLOCK = 64 * 1024


class Execution:
    """Pumps a run's outputs into spools and decides how it ended. `finished` is called exactly once."""

    def __init__(
        self,
        run_id: str,
        folder: Path,
        runner: Runner,
        oom_kills: OomKills,
        stdin: StandardInput,
        finished: Callable[[RunExit], None],
        storage: Storage = PLAIN,
    ) -> None:
        self.run_id = run_id
        self.stdin = stdin
        self.outputs = {stream: storage.spool(folder / stream) for stream in ("stdout", "stderr")}
        self._runner = runner
        self._oom_kills = oom_kills
        self._finished = finished
        self._streams: dict[int, Spool] = {}
        """By the read end of its pipe."""
        self._report = -1
        self._report_received = b""
        self._verdict: RunExit | None = None
        """Why it was killed, if we did it."""
        self._room = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._over = False
        self._began: float | None = None
        self._wall = 0.0
        self._used: ProcessUsage | None = None

    @property
    def pid(self) -> int | None:
        """Of the run's process, while it lives."""
        return self._runner.pids.get(self.run_id)

    @property
    def usage(self) -> RunUsage | None:
        """What it has used so far, or in all; None before it has begun."""
        if self._began is None:
            return None
        if not self._over:
            self._wall = asyncio.get_running_loop().time() - self._began
            if (pid := self.pid) is not None:
                from app_loader.process_usage import live_usage

                self._used = live_usage(pid) or self._used
        used = self._used or ProcessUsage(0.0, 0)
        output = sum(spool.size for spool in self.outputs.values())
        return RunUsage(round(self._wall, 6), round(used.cpu, 6), used.memory, self.stdin.size, output)

    @property
    def verdict(self) -> RunExit | None:
        """Why it was killed, or is not to be begun."""
        return self._verdict

    def begin(
        self,
        module: str,
        assignment: Assignment,
        folders: Sequence[int],
        *,
        output: int,
        timeout: float,
        discarded: Collection[str] = (),
    ) -> None:
        """Start the process; `folders` are its other descriptors and closed here. Its time counts from now.

        `output` is the limit in bytes of both streams together, `timeout` is in seconds, `discarded` names streams that
        lead nowhere.
        """
        loop = asyncio.get_running_loop()
        theirs = [_in_memory(assignment), self.stdin.take_reader()]
        for name, spool in self.outputs.items():
            if name in discarded:
                theirs.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
                continue
            reader, writer = _pipe()
            theirs.append(writer)
            self._streams[reader] = spool
            loop.add_reader(reader, self._pump, reader)
        self._report, writer = _pipe()
        theirs.append(writer)
        loop.add_reader(self._report, self._take_report)
        self._room = output
        self._began = loop.time()
        self._deadline = loop.call_later(timeout, self._expire, timeout)
        try:
            self._runner.spawn(Start(self.run_id, module, assignment.shimmed), (*theirs, *folders), self._ended)
        except RunnerDiedError as error:
            self._finish(RunExit(ExitReason.LOST, message=str(error)))

    def abandon(self, reason: ExitReason, message: str) -> None:
        """It was never begun and never will be."""
        self._finish(RunExit(reason, message=message))

    def kill(self, reason: ExitReason, message: str) -> None:
        """End the process for a reason of ours; the first reason counts, and none if the guest has ended before."""
        if self._verdict is None and not self._over:
            self._verdict = RunExit(reason, message=message)
            self._runner.kill(self.run_id)

    def _expire(self, timeout: float) -> None:
        self.kill(ExitReason.TIMEOUT, f"the run took longer than {timeout:g} s")

    def _pump(self, reader: int) -> bool:
        """Read one block, so that a guest that floods its output delays the server no longer. Whether more may come."""
        try:
            content = os.read(reader, _BLOCK)
        except BlockingIOError:
            return False
        if not content:
            self._close_stream(reader)
            return False
        self._keep(self._streams[reader], content)
        return True

    def _keep(self, spool: Spool, content: bytes) -> None:
        kept = content[: self._room]
        try:
            spool.append(kept)
        except OSError as error:
            self._overrule(_disk_full(error))
            return
        self._room -= len(kept)
        if len(kept) < len(content):
            limit = sum(output.size for output in self.outputs.values())
            self._overrule(f"standard output and standard error exceeded {limit} bytes")

    def _overrule(self, message: str) -> None:
        """Output was lost, so no other ending may hide that: not even the guest's own."""
        if self._verdict is None or self._verdict.reason != ExitReason.OUTPUT_LIMIT:
            self._verdict = RunExit(ExitReason.OUTPUT_LIMIT, message=message)
            self._runner.kill(self.run_id)
        for reader in tuple(self._streams):
            self._close_stream(reader)

    def _take_report(self) -> None:
        try:
            received = os.read(self._report, _BLOCK)
        except BlockingIOError:
            return
        if not received:
            # Killed before it could report: its end tells the rest.
            self._close_report()
            return
        self._report_received += received
        try:
            report = decode_strictly(self._report_received, Report)
        except msgspec.DecodeError:
            return
        self._reported(report)

    def _reported(self, report: Report) -> None:
        """The guest has ended by itself. It closed its outputs before, so they are read to their ends here."""
        self._used = report.usage
        self._drain()
        if self._verdict is not None and self._verdict.reason == ExitReason.OUTPUT_LIMIT:
            self._finish(self._verdict)
            return
        self._finish(
            RunExit(
                reason=report.reason,
                code=report.code,
                trap=report.trap,
                message=report.message,
                backtrace=report.backtrace,
            )
        )

    def _ended(self, event: Ended) -> None:
        """The process is gone."""
        if self._over:
            return
        if self._report >= 0:
            self._take_report()
        if self._over:
            return
        self._used = event.usage or self._used
        self._drain()
        self._finish(self._verdict or self._explain(event))

    def _explain(self, event: Ended) -> RunExit:
        if event.error is not None:
            return RunExit(ExitReason.LOST, message=event.error)
        if event.signal is None:
            return RunExit(ExitReason.LOST, message=f"the run's process ended with {event.code} and without a report")
        name = signal.Signals(event.signal).name
        if event.signal == signal.SIGKILL and self._oom_kills.claim():
            return RunExit(ExitReason.MEMORY, message="the kernel ended the run, because the keep was out of memory")
        return RunExit(ExitReason.TRAP, message=f"the run's process was ended by {name}")

    def _drain(self) -> None:
        for reader in tuple(self._streams):
            while reader in self._streams and self._pump(reader):
                pass

    def _finish(self, ending: RunExit) -> None:
        self._over = True
        if self._began is not None:
            self._wall = asyncio.get_running_loop().time() - self._began
        if self._deadline is not None:
            self._deadline.cancel()
        for reader in tuple(self._streams):
            self._close_stream(reader)
        self._close_report()
        self.stdin.close()
        for spool in self.outputs.values():
            spool.finish()
            if spool.error is not None:
                ending = RunExit(ExitReason.OUTPUT_LIMIT, message=_disk_full(spool.error))
        self._finished(ending)

    def _close_stream(self, reader: int) -> None:
        if self._streams.pop(reader, None) is not None:
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)

    def _close_report(self) -> None:
        if self._report >= 0:
            asyncio.get_running_loop().remove_reader(self._report)
            os.close(self._report)
            self._report = -1


def _disk_full(error: OSError) -> str:
    return f"disk full: the output could not be kept ({error.strerror})"


def _in_memory(assignment: Assignment) -> int:
    memfd = os.memfd_create("assignment", os.MFD_CLOEXEC)
    with open(memfd, "wb", closefd=False) as file:
        file.write(msgspec.json.encode(assignment))
    return memfd


def _pipe() -> tuple[int, int]:
    """Our end does not block, the run's does."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    return reader, writer
