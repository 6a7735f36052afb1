"""One request that the workload answers: its body goes to a worker, the worker's response to the client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from app_loader.going_request import GoingRequest
from app_loader.http_worker import HttpWorker
from app_loader.messages import Body, Fields, Request, Response
from app_loader.runner_messages import Report
from app_loader.wasi_http.fields import permitted
from app_loader.wasi_http.frames import (
    Frame,
    Headers,
    Outcome,
    RequestHead,
    ResponseHead,
    conclusion_decoder,
    encode,
    headers_decoder,
    response_decoder,
)
from keep_protocol.errors import PROBLEM_HEADER, ErrorCode, RefusalError
from keep_protocol.states import ExitReason, ServedOutcome

_logger = logging.getLogger(__name__)

_OURS: Final = frozenset({b"date", PROBLEM_HEADER.encode()})
"""Headers of a response that are the keep's to send."""

_RETURN_SECONDS: Final = 0.05
"""How long a connection's next request waits for the guest of the last one to return."""
_CAUSE_SECONDS: Final = 1.0
"""How long a process that broke a response off may take to say why. It does so at once, if it gets a processor."""

_CODES = {
    ExitReason.TRAP: ErrorCode.HTTP_TRAPPED,
    ExitReason.CODE: ErrorCode.HTTP_EXITED,
    ExitReason.MEMORY: ErrorCode.HTTP_MEMORY,
}


def request_head(
    request: Request,
    memory: int,
    environment: tuple[tuple[str, str], ...] = (),
    *,
    below: int,
    reuse: bool = False,
) -> RequestHead:
    """What the guest gets to see of a request, whose first `below` segments are the keep's. Raises `RefusalError`."""
    if "upgrade" in request.headers:
        raise RefusalError(
            ErrorCode.BAD_REQUEST,
            "a keep does not change the protocol of a connection",
            field="Upgrade",
            remedy="leave the header `Upgrade` out; workloads speak HTTP/1.1",
        )
    path = b"/" + b"/".join(request.segments[below:])
    if request.raw_query:
        path += b"?" + request.raw_query
    fields = [(name.decode("ascii"), value) for name, value in request.fields]
    return RequestHead(
        method=request.method,
        path=path.decode("ascii", "backslashreplace"),
        authority=request.headers.get("host", ""),
        headers=permitted(fields),
        memory=memory,
        has_body=request.body.size != 0,
        environment=environment,
        reuse=reuse,
    )


class Answering:
    """A worker at one request; `release` takes it back, once, when it is done or dead, and `going` is over then."""

    def __init__(
        self,
        worker: HttpWorker,
        body: Body,
        timeout: float,
        going: GoingRequest,
        release: Callable[[HttpWorker], None],
    ) -> None:
        self._worker = worker
        self._going = going
        going.begin()
        worker.begin_work()
        self._body = body
        self._timeout = timeout
        self._release = release
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._expire)
        self._refusal: RefusalError | None = None
        """Why the request cannot be answered, if that is not the guest's doing."""
        self._pump: asyncio.Task[None] | None = None
        self._response: Response
        self._complete = False

    async def begin(self, head: RequestHead) -> Response:
        """The response as soon as the guest has given its head. Raises `RefusalError`."""
        try:
            self._worker.send(Frame.REQUEST, encode(head))
            if head.has_body:
                self._pump = asyncio.get_running_loop().create_task(self._send_body())
            received = await self._worker.next_frame()
            if received is None or received[0] is not Frame.HEAD:
                raise await self._failure(received)
            given = _response_head(received[1])
        except BaseException as error:
            if isinstance(error, RefusalError):
                self._going.fail(error)
            await self._give_up()
            raise
        self._going.status = given.status
        self._response = Response(given.status, self)
        self._response.fields = response_fields(given.headers)
        return self._response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            received = await self._worker.next_frame()
            match received:
                case Frame.BODY, content:
                    self._going.output += len(content)
                    yield content
                case Frame.END, trailers:
                    if trailers:
                        self._response.trailers = response_fields(headers_decoder.decode(trailers))
                    self._complete = True
                    self._going.outcome = ServedOutcome.ANSWERED
                    return
                case Frame.ABORT, _:
                    await self._find_cause()
                    raise ConnectionAbortedError
                case _:
                    failure = await self._failure(received)
                    self._going.fail(failure)
                    _logger.info("a response broke off: %s", failure.code)
                    raise ConnectionAbortedError

    async def aclose(self) -> None:
        """The client has the whole body, or there is nobody for the rest of it: then the guest is ended."""
        if not self._complete:
            await self._give_up()
            return
        await self._stop_sending()
        # The guest may go on for as long as it has. Most return at once, and answer this client's next request too.
        waiting = asyncio.get_running_loop().create_task(self._wait_for_end())
        _background.add(waiting)
        waiting.add_done_callback(_background.discard)
        await asyncio.wait([waiting], timeout=_RETURN_SECONDS)

    async def _send_body(self) -> None:
        try:
            async for chunk in self._body:
                self._going.input += len(chunk)
                self._worker.send(Frame.BODY, chunk)
                await self._worker.drain()
        except RefusalError as refusal:
            # The guest may have answered already; if not, the client is told what was wrong with its body.
            self._refusal = refusal
            self._worker.send(Frame.ABORT)
            return
        trailers = permitted((name.decode("ascii"), value) for name, value in self._body.trailers)
        self._worker.send(Frame.END, encode(trailers) if trailers else b"")

    async def _failure(self, received: tuple[Frame, bytes] | None) -> RefusalError:
        """Why there is no response, or no more of it."""
        while received is not None and received[0] is not Frame.DONE:
            received = await self._worker.next_frame()
        if received is not None:
            failure = self._refusal or _refusal(self._conclude(received[1]))
        elif self._refusal is not None:
            failure = self._refusal
        else:
            ending = await self._worker.ending()
            failure = refusal_of_report(ending.report) if ending.report else lost(ending.error)
        return failure

    async def _find_cause(self) -> None:
        """A guest that has broken its response off may go on, but has mostly ended, and then it has been told why."""
        self._going.fail(RefusalError(ErrorCode.HTTP_UNANSWERED, "the guest broke its response off"))
        # A process says how it went only when it has the end of the request's body.
        await self._stop_sending()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CAUSE_SECONDS):
                self._going.fail(await self._failure((Frame.ABORT, b"")))

    def _conclude(self, content: bytes) -> Outcome:
        """What the worker says at the end of a request."""
        try:
            conclusion = conclusion_decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._worker.kill()
            return Outcome(broken=f"its process is not understood: {error}")
        self._worker.end_work(conclusion.used, conclusion.total)
        return conclusion.outcome

    def _expire(self) -> None:
        self._refusal = RefusalError(ErrorCode.HTTP_TIMEOUT, f"the workload took longer than {self._timeout:g} s")
        self._worker.kill()

    async def _stop_sending(self) -> None:
        """Before another request of the same connection is read."""
        if self._pump is not None and not self._pump.done():
            self._pump.cancel()
            await asyncio.wait([self._pump])
            self._worker.send(Frame.ABORT)

    async def _wait_for_end(self) -> None:
        received = None
        try:
            while (received := await self._worker.next_frame()) is not None:
                if received[0] is Frame.DONE:
                    outcome = self._conclude(received[1])
                    if outcome.report is not None:
                        self._going.fail(refusal_of_report(outcome.report))
                    break
            else:
                ending = await self._worker.ending()
                if failure := self._refusal or (refusal_of_report(ending.report) if ending.report else None):
                    self._going.fail(failure)
        finally:
            self._finish(kill=received is None)

    async def _give_up(self) -> None:
        self._finish(kill=True)
        await self._stop_sending()

    def _finish(self, *, kill: bool) -> None:
        self._deadline.cancel()
        if kill:
            self._worker.kill()
        self._going.end(self._worker.used)
        self._release(self._worker)


_background: set[asyncio.Task[None]] = set()
"""Tasks live as long as they are referenced."""


def _response_head(content: bytes) -> ResponseHead:
    try:
        return response_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusalError(ErrorCode.HTTP_LOST, f"the response is malformed: {error}") from None


def _refusal(outcome: Outcome) -> RefusalError:
    if outcome.report is not None:
        return refusal_of_report(outcome.report)
    if outcome.broken is not None:
        return lost(outcome.broken)
    if outcome.error_code is not None:
        return RefusalError(
            ErrorCode.HTTP_UNANSWERED, f"the workload gave an error in place of a response: {outcome.error_code}"
        )
    return RefusalError(ErrorCode.HTTP_UNANSWERED, outcome.unanswered or "the guest broke its response off")


def refusal_of_report(report: Report) -> RefusalError:
    """How a guest failed that has told so itself."""
    return RefusalError(
        _CODES.get(report.reason, ErrorCode.HTTP_LOST),
        report.message or f"the guest ended with code {report.code} instead of answering",
        trap=report.trap,
        backtrace=report.backtrace,
    )


def lost(error: str | None) -> RefusalError:
    """The guest is gone, and why is not its doing."""
    return RefusalError(ErrorCode.HTTP_LOST, f"the request was lost: {error or 'its process is gone'}")


def response_fields(headers: Headers) -> Fields:
    """A guest's headers as h11 takes them: those that it may send, all names in lower case."""
    lowered = ((name.lower().encode(), value) for name, value in permitted(headers))
    return tuple((name, value) for name, value in lowered if name not in _OURS)
