"""One request of a guest and its response, HTTP/1.1 by h11 over a wire that never blocks."""

from __future__ import annotations

import math
import ssl
import time
from typing import Any

import h11

from app_loader.wasi_http.bodies import BodySource
from app_loader.wasi_http.errors import ErrorResult
from app_loader.wasi_http.fields import permitted
from app_loader.wasi_http.frames import Headers
from app_loader.wasi_http.outgoing_messages import FutureIncomingResponse, OutgoingRequest, RequestOptions
from app_loader.wasi_http.streams import MAX_WRITE, Pollable, failed
from app_loader.wasi_http.types_interface import IncomingResponse
from app_loader.wasi_http.wire import Wire

MAX_HEAD = 64 * 1024
"""Bytes of a response's head."""
MAX_UNREAD = 256 * 1024
"""Bytes of a response's body that wait for the guest before the server is held back."""
DEFAULT_TIMEOUTS = {"connect": 30.0, "first-byte": 600.0, "between-bytes": 600.0}
"""Seconds; the `connect` one is for TLS, as the network bounds TCP itself. As wasmtime has them, but for the first."""

_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})


class OutgoingExchange:
    """Sink of the request's body and source of the response's."""

    def __init__(self, wire: Wire, method: str, request: OutgoingRequest, options: RequestOptions) -> None:
        self._wire = wire
        self._timeouts = DEFAULT_TIMEOUTS | options.timeouts
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._unread = bytearray()
        self._complete = False
        """Whether all of the response has come."""
        self._failure: tuple[str, Any] | None = None
        self._due = time.monotonic() + self._timeouts["first-byte" if wire.established else "connect"]
        self.response: tuple[int, Headers] | None = None
        self.ended = False
        self.trailers: Headers = ()
        self.closed = False
        headers = _headers(request, method)
        self._chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self._push(h11.Request(method=method, target=_target(request.path), headers=headers))
        if request.body is None:
            self._push(h11.EndOfMessage())
        else:
            request.body.attach(self)

    @property
    def failure(self) -> tuple[str, Any] | None:
        """The `error-code` that it failed with, if it did."""
        return self._failure

    def progress(self) -> None:
        """Do what can be done without waiting."""
        if self._failure is not None or self.closed or self._complete or len(self._unread) >= MAX_UNREAD:
            return
        try:
            self._wire.flush()
            while len(self._unread) < MAX_UNREAD and not self._complete:
                established = self._wire.established
                received = self._wire.receive()
                if not established and self._wire.established:
                    self._due = time.monotonic() + self._timeouts["first-byte"]
                if received is None:
                    break
                self._http.receive_data(received)
                self._take_events()
                if not received and not self._complete:
                    raise OSError("the server closed the connection")
                self._due = time.monotonic() + self._timeouts["between-bytes"]
        except ssl.SSLCertVerificationError:
            self._fail(("TLS-certificate-error", None))
        except ssl.SSLError:
            self._fail(("TLS-protocol-error", None))
        except OSError:
            self._fail(("connection-terminated", None))
        except h11.RemoteProtocolError:
            incomplete = self._http.their_state is h11.ERROR and self.response is not None
            self._fail(("HTTP-response-incomplete" if incomplete else "HTTP-protocol-error", None))
        if self._failure is None and not self._complete and time.monotonic() >= self._due:
            self._fail((self._late(), None))

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._wire.close()

    # As the source of the response's body

    def read(self, limit: int) -> bytes:
        """What is there now."""
        self.progress()
        content = bytes(self._unread[:limit])
        del self._unread[:limit]
        if not content and self._failure is not None:
            raise failed("the response broke off", self._failure)
        if not self._unread and self._complete:
            self.ended = True
            self.close()
        return content

    def ready(self) -> bool:
        """Whether there is something to read, or nothing more will come."""
        self.progress()
        return bool(self._unread) or self._complete or self._failure is not None

    def waits_for(self) -> tuple[int, int]:
        """The connection."""
        return self._wire.waits_for()

    def deadline(self) -> float:
        """When it fails."""
        return self._due if self._failure is None and not self._complete else math.inf

    # As the sink of the request's body

    def room(self) -> int:
        """As much as one write may bring, if the server has read what came before."""
        self.progress()
        if self._failure is not None or self.closed:
            raise failed("the request broke off", self._failure or ("connection-terminated", None))
        return MAX_WRITE if self._wire.unsent < MAX_WRITE else 0

    def write(self, content: bytes) -> None:
        """Send it on."""
        self._push(h11.Data(data=content))

    def end(self, trailers: Headers) -> None:
        """The request is complete."""
        headers = [(name.encode(), value) for name, value in trailers] if self._chunked else []
        self._push(h11.EndOfMessage(headers=headers))

    def abort(self) -> None:
        """It will never be."""
        self._fail(("HTTP-protocol-error", None))

    def _push(self, event: h11.Event) -> None:
        try:
            self._wire.send(self._http.send(event) or b"")
        except h11.LocalProtocolError:
            self._fail(("HTTP-protocol-error", None))
        except OSError:
            # The server may have answered before it hung up.
            self.progress()
            if self.response is None and self._failure is None:
                self._fail(("connection-terminated", None))

    def _take_events(self) -> None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Response(status_code=status, headers=headers):
                    self.response = status, _decoded(headers)
                case h11.Data(data=data):
                    self._unread += data
                case h11.EndOfMessage(headers=headers):
                    self.trailers = _decoded(headers)
                    self._complete = True
                    return
                case h11.InformationalResponse():
                    continue
                case h11.PAUSED:
                    raise h11.RemoteProtocolError("the server changed the protocol")
                case _:
                    return

    def _late(self) -> str:
        if not self._wire.established:
            return "connection-timeout"
        return "HTTP-response-timeout" if self.response is None else "connection-read-timeout"

    def _fail(self, code: tuple[str, Any]) -> None:
        if self._failure is None:
            self._failure = code
            self.close()


class PendingResponse(FutureIncomingResponse):
    """Of an exchange."""

    def __init__(self, exchange: OutgoingExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._given = False

    def ready(self) -> bool:
        self._exchange.progress()
        return self._exchange.response is not None or self._exchange.failure is not None

    def response(self) -> IncomingResponse:
        if self._exchange.response is None:
            raise ErrorResult(self._exchange.failure)
        status, headers = self._exchange.response
        self._given = True
        source: BodySource = self._exchange
        return IncomingResponse(status, headers, source)

    def pollable(self) -> Pollable:
        return _ResponsePollable(self, self._exchange)

    def drop(self) -> None:
        if not self._given:
            self._exchange.close()


class _ResponsePollable(Pollable):
    def __init__(self, pending: PendingResponse, exchange: OutgoingExchange) -> None:
        self._pending = pending
        self._exchange = exchange

    def ready(self) -> bool:
        return self._pending.ready()

    def waits_for(self) -> tuple[int, int]:
        return self._exchange.waits_for()

    def deadline(self) -> float:
        return self._exchange.deadline()


def _target(path: str | None) -> str:
    if not path:
        return "/"
    return f"/{path}" if path.startswith("?") else path


def _headers(request: OutgoingRequest, method: str) -> list[tuple[bytes, bytes]]:
    """What the guest has set, and what says where the message goes and how long it is."""
    given = [(name.lower().encode(), value) for name, value in permitted(request.headers.entries)]
    named = {name for name, _ in given}
    framing: list[tuple[bytes, bytes]] = []
    if request.body is None:
        given = [(name, value) for name, value in given if name != b"content-length"]
        framing = [] if method in _WITHOUT_BODY else [(b"content-length", b"0")]
    elif b"content-length" not in named:
        framing = [(b"transfer-encoding", b"chunked")]
    return [(b"host", (request.authority or "").encode()), (b"connection", b"close"), *framing, *given]


def _decoded(headers: Any) -> Headers:
    return tuple((name.decode("ascii"), value) for name, value in headers)
