"""Bodies of wasi:http: where a guest reads them from and writes them to."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Protocol

from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.fields import Fields
from app_loader.wasi_http.frames import Headers
from app_loader.wasi_http.resources import Resource
from app_loader.wasi_http.streams import CLOSED, MAX_WRITE, InputStream, OutputStream, Pollable, failed


class BodySource(Protocol):
    """A body that arrives."""

    ended: bool
    """Whether all of it was read."""
    trailers: Headers
    """Known when it has ended."""

    def read(self, limit: int) -> bytes:
        """What is there now, up to `limit` bytes; sets `ended`. Raises `ErrorResult` with a `stream-error`."""

    def ready(self) -> bool:
        """Whether `read` has something to say."""

    def waits_for(self) -> tuple[int, int] | None:
        """What to poll until it is ready."""

    def deadline(self) -> float:
        """When it fails, by `time.monotonic`."""


class BodySink(Protocol):
    """Where a body goes."""

    def room(self) -> int:
        """Bytes that it takes now. Raises `ErrorResult` with a `stream-error`."""

    def write(self, content: bytes) -> None:
        """Take some of the body. Raises `ErrorResult` with a `stream-error`."""

    def end(self, trailers: Headers) -> None:
        """The body is complete. Raises `ErrorResult` with an `error-code`."""

    def abort(self) -> None:
        """It will never be."""

    def waits_for(self) -> tuple[int, int]:
        """What to poll until there is room."""


class _SourcePollable(Pollable):
    def __init__(self, source: BodySource) -> None:
        self._source = source

    def ready(self) -> bool:
        return self._source.ready()

    def waits_for(self) -> tuple[int, int] | None:
        return self._source.waits_for()

    def deadline(self) -> float:
        return self._source.deadline()


class BodyInput(InputStream):
    """The stream of an incoming body."""

    def __init__(self, source: BodySource) -> None:
        self._source = source

    def read(self, limit: int) -> bytes:
        if self._source.ended:
            raise ErrorResult(CLOSED)
        content = self._source.read(limit) if limit else b""
        if not content and self._source.ended:
            raise ErrorResult(CLOSED)
        return content

    def pollable(self) -> Pollable:
        return _SourcePollable(self._source)


class IncomingBody(Resource):
    """`incoming-body`"""

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self._taken = False

    def stream(self) -> InputStream:
        """Its stream, once. Raises `ErrorResult`."""
        if self._taken:
            raise ErrorResult
        self._taken = True
        return BodyInput(self.source)


class FutureTrailers(Resource):
    """`future-trailers`: there when the rest of the body, which nobody reads, has arrived."""

    def __init__(self, source: BodySource) -> None:
        self._source = source
        self._taken = False
        self._failure: tuple[str, Any] | None = None

    def get(self) -> tuple[bool, Any] | None:
        """None until then; afterwards once what there is."""
        if not self.ready():
            return None
        if self._taken:
            return False, None
        self._taken = True
        if self._failure is not None:
            return True, (False, self._failure)
        trailers = self._source.trailers
        return True, (True, Fields(trailers, frozen=True) if trailers else None)

    def ready(self) -> bool:
        """Whether there is something to get."""
        while not self._source.ended and self._failure is None:
            if not self._source.ready():
                return False
            try:
                if not self._source.read(MAX_WRITE) and not self._source.ended:
                    return False
            except ErrorResult as error:
                _, io_error = error.value
                self._failure = (io_error.code if io_error is not None else None) or ("internal-error", None)
        return True

    def pollable(self) -> Pollable:
        """Ready when it is."""
        return _TrailersPollable(self, self._source)


class _TrailersPollable(_SourcePollable):
    def __init__(self, future: FutureTrailers, source: BodySource) -> None:
        super().__init__(source)
        self._future = future

    def ready(self) -> bool:
        return self._future.ready()


class OutgoingBody(Resource):
    """`outgoing-body`: kept here until its message is sent off, and from then on passed on to a sink."""

    def __init__(self, expected: Callable[[], int | None], of: str = "response") -> None:
        self._of = of
        self._expected = expected
        """Of the message's `content-length`, which is fixed when the body is begun."""
        self._length: int | None = None
        self._kept = bytearray()
        self._sink: BodySink | None = None
        self._written = 0
        self._ending: Headers | None = None
        self._aborted = False
        self._taken = False

    def stream(self) -> OutputStream:
        """Its stream, once. Raises `ErrorResult`."""
        if self._taken:
            raise ErrorResult
        self._taken = True
        self._length = self._expected()
        return BodyOutput(self)

    def attach(self, sink: BodySink) -> None:
        """Send on what there is, and all that comes."""
        self._sink = sink
        if self._kept:
            sink.write(bytes(self._kept))
            self._kept.clear()
        if self._aborted:
            sink.abort()
        elif self._ending is not None:
            sink.end(self._ending)

    def room(self) -> int:
        """Bytes that can be written now. Raises `ErrorResult`."""
        if self._ending is not None or self._aborted:
            raise ErrorResult(CLOSED)
        if self._sink is not None:
            return self._sink.room()
        if len(self._kept) >= MAX_WRITE:
            raise GuestFaultError("the body is written before its message is sent off, and fills what is kept of it")
        return MAX_WRITE - len(self._kept)

    def write(self, content: bytes) -> None:
        """Take some of it. Raises `ErrorResult`."""
        if self._ending is not None or self._aborted:
            raise ErrorResult(CLOSED)
        self._written += len(content)
        if self._length is not None and self._written > self._length:
            raise failed(f"the body is longer than its content-length of {self._length}", self._wrong_size())
        if self._sink is None:
            self._kept += content
        else:
            self._sink.write(content)

    def finish(self, trailers: Headers) -> None:
        """It is complete. Raises `ErrorResult` with an `error-code`."""
        expected = self._length if self._taken else self._expected()
        if expected is not None and self._written != expected:
            self.drop()
            raise ErrorResult(self._wrong_size())
        self._ending = trailers
        if self._sink is not None:
            self._sink.end(trailers)

    def drop(self) -> None:
        """Without having been finished."""
        if self._ending is None and not self._aborted:
            self._aborted = True
            if self._sink is not None:
                self._sink.abort()

    def waits_for(self) -> tuple[int, int] | None:
        """What to poll until there is room."""
        return None if self._sink is None else self._sink.waits_for()

    def _wrong_size(self) -> tuple[str, int]:
        return f"HTTP-{self._of}-body-size", self._written


class BodyOutput(OutputStream):
    """The stream of an outgoing body."""

    def __init__(self, body: OutgoingBody) -> None:
        self._body = body

    def room(self) -> int:
        return self._body.room()

    def write(self, content: bytes) -> None:
        self._body.write(content)

    def pollable(self) -> Pollable:
        return _RoomPollable(self._body)


class _RoomPollable(Pollable):
    def __init__(self, body: OutgoingBody) -> None:
        self._body = body

    def ready(self) -> bool:
        try:
            return self._body.room() > 0
        except ErrorResult:
            return True

    def waits_for(self) -> tuple[int, int] | None:
        return self._body.waits_for()


def writable(descriptor: int) -> bool:
    """Whether a socket takes some more without blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
