"""One request as its process has it: the body comes from the server, the response goes there."""

from __future__ import annotations

import math
import select
import socket

import msgspec

from app_loader.wasi_http.bodies import writable
from app_loader.wasi_http.errors import ErrorResult, ServerGoneError
from app_loader.wasi_http.frames import (
    HEADER,
    Conclusion,
    Frame,
    Headers,
    RequestHead,
    ResponseHead,
    encode,
    frame,
    headers_decoder,
    request_decoder,
)
from app_loader.wasi_http.streams import MAX_WRITE, failed

_BLOCK = 256 * 1024


class Channel:
    """The socket to the server."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = bytearray()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def receive(self, *, blocking: bool) -> tuple[Frame, bytes] | None:
        """The next frame; None if it is not there yet. Raises `ServerGoneError`."""
        while (found := self._next()) is None:
            try:
                block = self._socket.recv(_BLOCK, 0 if blocking else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError:
                block = b""
            if not block:
                raise ServerGoneError
            self._received += block
        return found

    def send(self, content: bytes | bytearray) -> None:
        """Blocks while the server does not read. Raises `ServerGoneError`."""
        try:
            self._socket.sendall(content)
        except OSError:
            raise ServerGoneError from None

    def _next(self) -> tuple[Frame, bytes] | None:
        received = self._received
        if len(received) < HEADER.size:
            return None
        kind, size = HEADER.unpack_from(received)
        end = HEADER.size + size
        if len(received) < end:
            return None
        content = bytes(received[HEADER.size : end])
        del received[:end]
        return Frame(kind), content


class RequestSource:
    """The body of a request, as `BodySource` has it."""

    def __init__(self, channel: Channel, *, ended: bool) -> None:
        self._channel = channel
        self._rest = memoryview(b"")
        self._failed = False
        self.ended = ended
        self.trailers: Headers = ()

    def read(self, limit: int) -> bytes:
        """What is there now."""
        if not self._rest:
            self._receive()
        content = bytes(self._rest[:limit])
        self._rest = self._rest[limit:]
        return content

    def ready(self) -> bool:
        """Whether there is something to read, or nothing more will come."""
        if not self._rest and not self.ended and not self._failed:
            self._take(self._channel.receive(blocking=False))
        return bool(self._rest) or self.ended or self._failed

    def waits_for(self) -> tuple[int, int]:
        """The server's next frame."""
        return self._channel.fileno(), select.POLLIN

    def deadline(self) -> float:
        """It has none: the server ends bodies that take too long."""
        return math.inf

    def drain(self) -> None:
        """Throw away what the guest has not read, so that the next request can come."""
        self._rest = memoryview(b"")
        while not self.ended and not self._failed:
            self._take(self._channel.receive(blocking=True))
            self._rest = memoryview(b"")

    def _receive(self) -> None:
        if not self.ended and not self._failed:
            self._take(self._channel.receive(blocking=False))
        if self._failed:
            raise failed("the client did not complete the body", ("connection-terminated", None))

    def _take(self, received: tuple[Frame, bytes] | None) -> None:
        match received:
            case Frame.BODY, content:
                self._rest = memoryview(content)
            case Frame.END, trailers:
                self.trailers = headers_decoder.decode(trailers) if trailers else ()
                self.ended = True
            case Frame.ABORT, _:
                self._failed = True


class ResponseSink:
    """The body of the response, as `BodySink` has it.

    The head waits for the first of the body: one packet instead of two. `release` sends it when the guest would wait.
    """

    def __init__(self, channel: Channel, head: ResponseHead) -> None:
        self._channel = channel
        self._held: bytes | None = frame(Frame.HEAD, encode(head))
        self.finished = False

    def room(self) -> int:
        """As much as one write may bring, if the server reads."""
        return MAX_WRITE if writable(self._channel.fileno()) else 0

    def write(self, content: bytes) -> None:
        """Send it on."""
        self._send(frame(Frame.BODY, content))

    def end(self, trailers: Headers) -> None:
        """The response is complete."""
        self.finished = True
        self._send(frame(Frame.END, encode(trailers) if trailers else b""))

    def abort(self) -> None:
        """The server breaks the response off."""
        self.finished = True
        self._send(frame(Frame.ABORT))

    def waits_for(self) -> tuple[int, int]:
        """The server to read."""
        return self._channel.fileno(), select.POLLOUT

    def release(self) -> None:
        """Send the head now."""
        if self._held is not None:
            held, self._held = self._held, None
            self._channel.send(held)

    def _send(self, content: bytes) -> None:
        held, self._held = self._held, None
        self._channel.send(content if held is None else held + content)


class Exchange:
    """A request and what became of it."""

    def __init__(self, channel: Channel, head: RequestHead) -> None:
        self._channel = channel
        self.head = head
        self.source = RequestSource(channel, ended=not head.has_body)
        self.sink: ResponseSink | None = None
        """There when the guest has given its response."""
        self.error_code: str | None = None
        """What it gave instead."""

    def respond(self, head: ResponseHead) -> ResponseSink:
        """Begin the response."""
        self.sink = ResponseSink(self._channel, head)
        return self.sink

    def release(self) -> None:
        """The guest is about to wait, so what is held back goes."""
        if self.sink is not None:
            self.sink.release()

    def finish(self) -> None:
        """Break off what the guest has not completed."""
        if self.sink is not None and not self.sink.finished:
            self.sink.abort()
        self.source.drain()

    def conclude(self, conclusion: Conclusion) -> None:
        """Tell the server how it went, and be ready for the next request."""
        self._channel.send(frame(Frame.DONE, encode(conclusion)))


def next_exchange(channel: Channel) -> Exchange | None:
    """The next request, or None when there will be no more."""
    try:
        received = channel.receive(blocking=True)
    except ServerGoneError:
        return None
    if received is None or received[0] is not Frame.REQUEST:
        raise ErrorResult("the server began with no request")
    try:
        head = request_decoder.decode(received[1])
    except msgspec.DecodeError:
        raise ServerGoneError from None
    return Exchange(channel, head)
