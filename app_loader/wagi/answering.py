"""One request that a command answers: its body goes to standard input, standard output becomes the response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from app_loader.going_request import GoingRequest
from app_loader.http_answer import lost, refusal_of_report, response_fields
from app_loader.messages import Body, Response
from app_loader.standard_input import StandardInput
from app_loader.wagi.process import CommandProcess
from app_loader.wagi.response_head import Head, HeadError, HeadReader, parse_head
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import ExitReason, ServedOutcome

_HELD: Final = 64 * 1024
"""Bytes of a body that wait for the guest to end before the response begins."""
HOLD_SECONDS: Final = 1.0
"""How long they wait: a command that fails in this time is told as a failure, whatever it has written."""


class CommandAnswering:
    """A process at its one request; `release` is called once, when it is over, and so is `going` then."""

    def __init__(
        self,
        process: CommandProcess,
        stdin: StandardInput,
        body: Body,
        timeout: float,
        going: GoingRequest,
        release: Callable[[], None],
        *,
        bodiless: bool,
    ) -> None:
        self._process = process
        self._stdin = stdin
        self._timeout = timeout
        self._going = going
        going.begin()
        self._release = release
        self._bodiless = bodiless
        """Whether the client gets no body, so that its size does not matter."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(timeout, self._expire)
        self._pump = loop.create_task(self._send_body(body)) if body.size != 0 else None
        self._refusal: RefusalError | None = None
        """Why the request cannot be answered, if that is not the guest's doing."""
        self._held: list[bytes] = []
        self._ended = False
        """Whether the guest has written all and ended well."""
        self._left: int | None = None
        """Bytes of the body still to come, where the guest has said how many."""
        self._over = False

    async def begin(self) -> Response:
        """The response as soon as the guest has given its head, and ended or had time to. Raises `RefusalError`."""
        try:
            head, rest = await self._head()
            self._left = None if self._bodiless else head.content_length
            self._take(rest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOLD_SECONDS):
                    await self._hold()
            if self._ended and self._left:
                raise _unanswered(f"`Content-Length` promises {self._left} bytes more than there are")
        except BaseException as error:
            if isinstance(error, RefusalError):
                self._going.fail(error)
            await self.aclose()
            raise
        self._going.status = head.status
        response = Response(head.status, self)
        response.fields = response_fields(head.headers)
        return response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while self._held or not self._ended:
                if not self._held:
                    await self._read_on()
                    continue
                block = self._held.pop(0)
                self._going.output += len(block)
                yield block
            if self._left:
                raise _unanswered(f"the guest ended {self._left} bytes before its `Content-Length`")
        except RefusalError as refusal:
            self._going.fail(refusal)
            raise ConnectionAbortedError from None
        self._going.outcome = ServedOutcome.ANSWERED

    async def aclose(self) -> None:
        """The client has the whole body, or there is nobody for the rest of it: then the guest is ended."""
        if self._over:
            return
        self._over = True
        self._deadline.cancel()
        if not self._ended:
            self._process.kill()
        self._stdin.close()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._process.close()
        self._going.input = self._stdin.size
        self._going.end(self._process.used)
        self._release()

    async def _head(self) -> tuple[Head, bytes]:
        reader = HeadReader()
        parts = None
        try:
            while parts is None:
                block = await self._process.read()
                if not block:
                    await self._check_ending()
                    raise _unanswered("the guest ended without a header block and the empty line behind it")
                parts = reader.add(block)
            return parse_head(parts[0]), parts[1]
        except HeadError as error:
            raise _unanswered(f"the guest's header block is malformed: {error}") from None

    async def _hold(self) -> None:
        while not self._ended and sum(map(len, self._held)) < _HELD:
            await self._read_on()

    async def _read_on(self) -> None:
        """Raises `RefusalError` if the guest has failed."""
        if block := await self._process.read():
            self._take(block)
        else:
            await self._check_ending()
            self._ended = True

    def _take(self, block: bytes) -> None:
        if self._left is not None:
            if len(block) > self._left:
                raise _unanswered("the guest wrote more than its `Content-Length`")
            self._left -= len(block)
        if block:
            self._held.append(block)

    async def _check_ending(self) -> None:
        ending = await self._process.ending()
        if self._refusal is not None:
            raise self._refusal
        if ending.report is None:
            raise lost(ending.error)
        if ending.report.reason is not ExitReason.CODE or ending.report.code:
            raise refusal_of_report(ending.report)

    async def _send_body(self, body: Body) -> None:
        try:
            await self._stdin.feed(aiter(body))
        except RefusalError as refusal:
            # Its end would tell the guest that it has got all.
            self._refusal = refusal
            self._process.kill()

    def _expire(self) -> None:
        self._refusal = RefusalError(ErrorCode.HTTP_TIMEOUT, f"the workload took longer than {self._timeout:g} s")
        self._process.kill()


def _unanswered(detail: str) -> RefusalError:
    return RefusalError(ErrorCode.HTTP_UNANSWERED, detail)
