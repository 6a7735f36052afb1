"""The server's end of one process for calls: asked, timed, killed, and what its end means."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec

from app_loader.call_messages import (
    LENGTH,
    MAX_ANSWER,
    Answer,
    Answered,
    Broken,
    CallOrder,
    GuestFailed,
    Refused,
    Returned,
    answer_decoder,
    framed,
    order_encoder,
)
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Work
from app_loader.worker_process import Ending, WorkerProcess
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import ExitReason

_BLOCK = 256 * 1024

_CODES = {
    ExitReason.TRAP: ErrorCode.CALL_TRAPPED,
    ExitReason.CODE: ErrorCode.CALL_EXITED,
    ExitReason.MEMORY: ErrorCode.CALL_MEMORY,
}


class CallWorker(WorkerProcess):
    """A process that has one workload mapped and takes one call at a time."""

    def __init__(self, runner: Runner, module: str, oom_kills: OomKills) -> None:
        super().__init__(runner, module, oom_kills, Work.CALLS)
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._answered: asyncio.Future[Answer | None] | None = None
        """Of the call that it is at; None when the process hung up."""

    async def _talk_over(self, connected: socket.socket) -> None:
        self._socket = connected
        asyncio.get_running_loop().add_reader(connected.fileno(), self._receive)

    async def ask(self, order: CallOrder, timeout: float) -> msgspec.Raw:
        """The function's result as JSON; the process is killed if it takes longer than `timeout` seconds.

        Afterwards `used` is what that took, as far as it is known. Raises `RefusalError`.
        """
        self.begin_work()
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
        return _broken_off(await self.ending())

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
            return
        self._received += block
        if len(self._received) < LENGTH.size:
            return
        (size,) = LENGTH.unpack_from(self._received)
        if size > MAX_ANSWER:
            self._give_up(f"the answer has {size} bytes")
        elif len(self._received) - LENGTH.size >= size:
            packet = bytes(self._received[LENGTH.size :])
            self._received.clear()
            self._take(packet)

    def _take(self, packet: bytes) -> None:
        try:
            answered: Answered = answer_decoder.decode(packet)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._give_up(f"the answer is malformed: {error}")
            return
        self.end_work(answered.used, answered.total)
        self._answer(answered.answer)

    def _give_up(self, error: str) -> None:
        """The guest has got out of its sandbox, or memory is broken: no further call is given to such a process."""
        self._answer(Broken(error))
        self.kill()

    def _answer(self, answer: Answer | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)

    def _hang_up(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._answer(None)


def _broken_off(ending: Ending) -> Answer:
    if ending.report is not None:
        return GuestFailed(ending.report)
    return Broken(ending.error or "its process is gone")


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
