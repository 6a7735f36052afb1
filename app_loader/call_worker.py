"""The server's end of one process for calls: asked, timed, killed, and what its end means."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket

import msgspec

from app_loader.call_messages import (
    LENGTH,
    MAX_ANSWER,
    Answer,
    Broken,
    CallOrder,
    GuestFailed,
    Refused,
    Returned,
    answer_decoder,
    framed,
    order_encoder,
)
from app_loader.errors import RunnerDiedError
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Ended, Report, Serve
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import ExitReason

_counter = itertools.count(1)

_BLOCK = 256 * 1024

_CODES = {
    ExitReason.TRAP: ErrorCode.CALL_TRAPPED,
    ExitReason.CODE: ErrorCode.CALL_EXITED,
    ExitReason.MEMORY: ErrorCode.CALL_MEMORY,
}


class CallWorker:
    """A process that has one workload mapped and takes one call at a time."""

    def __init__(self, runner: Runner, module: str, oom_kills: OomKills) -> None:
        self.module = module
        self._runner = runner
        self._oom_kills = oom_kills
        self._name = f"calls-{next(_counter)}"
        self._gone: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._answered: asyncio.Future[Answer | None] | None = None
        """Of the call that it is at; None when the process hung up."""
        self._killed = False
        self.retirement: asyncio.TimerHandle | None = None
        """Ends it when it has had no call for a while."""

    @property
    def usable(self) -> bool:
        """Whether it lives, as far as is known, and was not killed."""
        return not self._killed and not self._gone.done()

    @property
    def pid(self) -> int | None:
        """Of its process, while that lives."""
        return self._runner.pids.get(self._name)

    def start(self) -> None:
        """Make the process. Raises `RunnerDiedError`."""
        ours, theirs = socket.socketpair()
        try:
            self._runner.spawn(Serve(self._name, self.module), (theirs.detach(),), self._gone.set_result)
        except RunnerDiedError:
            ours.close()
            raise
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)

    async def ask(self, order: CallOrder, timeout: float) -> msgspec.Raw:
        """The function's result as JSON; the process is killed if it takes longer than `timeout` seconds.

        Raises `RefusalError`.
        """
        try:
            async with asyncio.timeout(timeout):
                answer = await self._exchange(order)
        except TimeoutError:
            self.kill()
            raise RefusalError(ErrorCode.CALL_TIMEOUT, f"the call took longer than {timeout:g} s") from None
        except BaseException:
            self.kill()
            raise
        return _result(answer)

    def kill(self) -> None:
        """End the process."""
        if self.retirement is not None:
            self.retirement.cancel()
        self._hang_up()
        if self.usable:
            self._killed = True
            self._runner.kill(self._name)
        self._answer(None)

    async def _exchange(self, order: CallOrder) -> Answer:
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        if self._socket is not None:
            # The process is reading, so all but the longest arguments go at once. If it is gone, that is read below.
            with contextlib.suppress(OSError):
                await loop.sock_sendall(self._socket, framed(order_encoder.encode(order)))
            answer = await self._answered
            if answer is not None:
                return answer
        return self._explain(await asyncio.shield(self._gone))

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            block = self._socket.recv(_BLOCK)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        if not block:
            self._hang_up()
            self._answer(None)
            return
        self._received += block
        if len(self._received) < LENGTH.size:
            return
        (size,) = LENGTH.unpack_from(self._received)
        if size > MAX_ANSWER:
            self._answer(Broken(f"the answer has {size} bytes"))
        elif len(self._received) - LENGTH.size >= size:
            packet = bytes(self._received[LENGTH.size :])
            self._received.clear()
            self._answer(_decoded(packet))

    def _answer(self, answer: Answer | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)

    def _hang_up(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _explain(self, event: Ended) -> Answer:
        """What the end of the process means for the call that it was at."""
        if self._killed:
            return Broken("its process was ended")
        if event.signal is None:
            return Broken(event.error or f"the call's process ended with {event.code}")
        name = signal.Signals(event.signal).name
        if event.signal == signal.SIGKILL and self._oom_kills.claim():
            message = "the kernel ended the call, because the keep was out of memory"
            return GuestFailed(Report(ExitReason.MEMORY, message=message))
        return GuestFailed(Report(ExitReason.TRAP, message=f"the call's process was ended by {name}"))


def _decoded(packet: bytes) -> Answer:
    try:
        answer: Answer = answer_decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Broken(f"the answer is malformed: {error}")
    return answer


def _result(answer: Answer) -> msgspec.Raw:
    match answer:
        case Returned(result):
            return result
        case Refused(code, detail, field, remedy):
            raise RefusalError(ErrorCode(code), detail, field=field, remedy=remedy)
        case GuestFailed(report):
            raise RefusalError(
                _CODES.get(report.reason, ErrorCode.CALL_LOST),
                report.message or f"the guest ended with code {report.code} instead of returning",
                trap=report.trap,
                backtrace=report.backtrace,
            )
        case Broken(error):
            raise RefusalError(ErrorCode.CALL_LOST, f"the call could not be made: {error}")
