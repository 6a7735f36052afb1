"""What uvicorn's HTTP protocol lacks: the client's certificate, deadlines, problems."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from keep_manager.listener import Accepted
from keep_protocol.errors import PROBLEM_MEDIA_TYPE, ErrorCode, RefusalError

HANDSHAKE_DEADLINE = 5.0
SHUTDOWN_DEADLINE = 1.0
"""For a peer's answer to our close of the TLS connection."""


LINGER = 1.0
"""Seconds for a client that is refused in the middle of its body to see why."""
MAX_LINGERING = 1024 * 1024
"""Bytes of that body that are still taken, and thrown away."""


class ManagerProtocol(H11Protocol):
    """Puts the verified client certificate (DER) into `scope["state"]["client_certificate"]`."""

    head_deadline: ClassVar[float] = 10.0
    """Seconds for a request's head, from the end of the handshake or of the answer before."""

    _head_timer: asyncio.TimerHandle | None = None
    _discarded: int | None = None
    """Bytes thrown away of a body that was refused; None as long as bodies are read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if (connection := Accepted.current.get(None)) is not None:
            connection.established()
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, "client_certificate": tls.getpeercert(binary_form=True)}
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _LingeringTransport(transport, self))
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._discarded is None:
            super().data_received(data)
            return
        self._discarded += len(data)
        if self._discarded > MAX_LINGERING:
            self.flow.pause_reading()

    def linger(self, transport: asyncio.Transport) -> bool:
        """Whether a connection that is to be closed stays a moment, because its client is still sending a body."""
        if self._discarded is not None:
            return True
        if transport.is_closing() or self.conn.their_state is not h11.SEND_BODY:
            return False
        self._discarded = 0
        self._cancel_timer()
        self.flow.resume_reading()
        self._head_timer = self.loop.call_later(LINGER, transport.abort)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_answering():
            # From here on the application has its own deadline for the body.
            self._cancel_timer()

    def on_response_complete(self) -> None:
        if self._discarded is None:
            self._expect_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, with a problem for a body."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        problem = RefusalError(ErrorCode.BAD_REQUEST, msg, remedy="speak HTTP/1.1").problem()
        body = msgspec.json.encode(problem)
        headers = [
            ("content-type", PROBLEM_MEDIA_TYPE),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=problem.status, headers=headers, reason="Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_head(self) -> None:
        self._cancel_timer()
        self._head_timer = self.loop.call_later(self.head_deadline, self._expire)

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expire(self) -> None:
        if not self._is_answering():
            self.transport.abort()


class _LingeringTransport:
    """A transport that asks its protocol before it closes.

    asyncio's TLS gives up a connection, with what it has not sent yet, as soon as data arrives after the close. So
    a client that is sending a body would be cut off instead of reading why it is refused.
    """

    def __init__(self, transport: asyncio.Transport, protocol: ManagerProtocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._protocol.linger(self._transport):
            self._transport.close()


class DeadlineLoop(asyncio.SelectorEventLoop):
    """An event loop whose TLS servers do not wait a minute for a handshake; uvicorn has no option for it."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        if kwargs.get("ssl") is not None:
            kwargs.setdefault("ssl_handshake_timeout", HANDSHAKE_DEADLINE)
            kwargs.setdefault("ssl_shutdown_timeout", SHUTDOWN_DEADLINE)
        return await super().create_server(*args, **kwargs)
