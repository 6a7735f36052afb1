"""One client connection: HTTP/1.1 by h11 over asyncio's TLS, one task, constant memory both ways."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import h11

from app_loader.deadlines import Deadlines
from app_loader.messages import Fields, Request, Response, Stream, problem_response
from app_loader.principals import Peer, Visitors
from app_loader.request_head import MAX_HEAD, check_head, unreadable
from app_loader.session import Session
from keep_protocol.errors import ErrorCode, RefusalError

MAX_UNREAD: Final = 256 * 1024
"""Bytes of a body that wait for their reader before the client is held back."""
MAX_IGNORED: Final = 64 * 1024
"""Bytes of a refused request's body that are read and thrown away, so that its connection can go on."""

MAX_UNSENT: Final = 64 * 1024
"""Bytes of a response that wait for their client before their source is held back."""

_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
"""Statuses without a body, whatever is given with them; RFC 9110, section 6.4.1."""

_logger = logging.getLogger(__name__)

Application = Callable[[Request], Awaitable[Response]]


class ClientBody:
    """The body of the request that a connection is answering."""

    def __init__(self, connection: Connection, size: int | None, patience: float | None) -> None:
        self._connection = connection
        self.size = size
        self.patience = patience
        self.trailers: Fields = ()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._connection.read_body(self)


class Connection(asyncio.Protocol):
    """Reads requests, hands them to the application one after the other, writes its responses."""

    def __init__(
        self,
        application: Application,
        visitors: Visitors,
        deadlines: Deadlines,
        opened: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._application = application
        self._visitors = visitors
        self._deadlines = deadlines
        self._opened = opened
        self._closed = closed
        self._transport: asyncio.Transport
        self.serving: asyncio.Task[None]
        """Ends with the last response."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing of the connection is left."""
        self._client: Peer | RefusalError
        self._session: Session
        self._http: h11.Connection
        self._received: deque[bytes] = deque()
        self._received_size = 0
        self._arrival: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._remaining: int | None = None
        """Bytes of the body still to come, when the head says how many."""
        self._body_done = True
        self._finishing = False
        self._last_resort: asyncio.TimerHandle | None = None
        self.busy = False
        """Whether a request is being answered."""

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(MAX_UNSENT)
        self._opened(self)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        # In a virtual machine clients come through a channel of the host's, which says nothing of them.
        peer = transport.get_extra_info("peername")
        self._session = Session(tls, peer[0] if isinstance(peer, tuple) and isinstance(peer[0], str) else "")
        certificate = tls.getpeercert(binary_form=True)
        try:
            self._client = self._visitors.identify(certificate, transport.get_extra_info("peercert"))
        except RefusalError as refusal:
            self._client = refusal
        self.serving = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._received_size += len(data)
        if self._received_size >= MAX_UNREAD and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        _wake(self._arrival)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._writable)
        self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)
        self.lost.set_result(None)
        self.serving.cancel()
        if self._last_resort is not None:
            self._last_resort.cancel()

    # What the server calls

    def finish(self) -> None:
        """Close now when idle, or else after the response that is under way."""
        self._finishing = True
        if not self.busy:
            self.serving.cancel()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.serving.cancel()
        self._transport.abort()

    # The task

    async def _serve(self) -> None:
        try:
            patience = self._deadlines.head
            while await self._first_byte(patience) and await self._exchange() and not self._finishing:
                patience = self._deadlines.idle
        except (TimeoutError, ConnectionError):
            self._transport.abort()
        except asyncio.CancelledError:
            # Whoever cancels is gone or wants us gone; there is nobody to tell.
            pass
        except Exception:
            _logger.exception("a connection failed")
            self._transport.abort()
        finally:
            self._close()

    def _close(self) -> None:
        # asyncio never ends the TLS shutdown of a transport whose reading is paused,
        # and waits for ever for a client that neither reads nor leaves.
        self._resume_reading()
        self._transport.close()
        self._received.clear()
        if not self.lost.done():
            loop = asyncio.get_running_loop()
            self._last_resort = loop.call_later(self._deadlines.close, self._transport.abort)

    async def _first_byte(self, patience: float) -> bool:
        """Wait for a request to begin; False when none does."""
        if not self._received:
            try:
                async with asyncio.timeout(patience):
                    await self._more()
            except TimeoutError:
                return False
        return True

    async def _exchange(self) -> bool:
        """Answer one request; whether another one may follow."""
        # One state machine per request: h11 reads heads and chunked bodies, bodies of known size bypass it.
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._body_done = True
        try:
            async with asyncio.timeout(self._deadlines.head):
                head = await self._head()
            request = self._request(head)
        except h11.RemoteProtocolError as error:
            # What else the client is sending, nobody can tell.
            self._body_done = False
            return await self._refuse(unreadable(error))
        except RefusalError as refusal:
            return await self._refuse(refusal)
        self.busy = True
        try:
            response = await self._application(request)
            await self._respond(response, bodiless=head.method == b"HEAD")
        finally:
            self.busy = False
        return await self._settle()

    async def _refuse(self, refusal: RefusalError) -> bool:
        """Answer what never became a request, and be done with this connection."""
        response = problem_response(refusal)
        response.headers["connection"] = "close"
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._respond(response, bodiless=False)
            if not self._body_done:
                await self._linger()
        return False

    async def _head(self) -> h11.Request:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._chunk())
            else:
                raise h11.RemoteProtocolError("a request head was expected")

    def _request(self, head: h11.Request) -> Request:
        headers: dict[str, str] = {}
        for name_bytes, value_bytes in head.headers:
            name, value = name_bytes.decode("ascii"), value_bytes.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        chunked = "transfer-encoding" in headers
        # h11 has made sure that it is a number, and one.
        self._remaining = None if chunked else int(headers.get("content-length", "0"))
        self._body_done = self._remaining == 0
        if not chunked:
            self._unread(self._http.trailing_data[0])
        if isinstance(self._client, RefusalError):
            raise self._client
        if chunked and "content-length" in headers:
            # RFC 9112, section 6.3: an attempt at request smuggling, or an error as bad.
            raise RefusalError(ErrorCode.BAD_REQUEST, "a request has Content-Length or Transfer-Encoding, not both")
        check_head(head)
        body = ClientBody(self, self._remaining, self._deadlines.chunk)
        fields = tuple(head.headers)
        return Request(head.method.decode("ascii"), head.target, headers, body, self._client, self._session, fields)

    # Bodies of requests

    async def read_body(self, body: ClientBody) -> AsyncIterator[bytes]:
        """The chunks of the body still to come. Raises `RefusalError`, or is cancelled when the client goes."""
        if not self._body_done and self._http.they_are_waiting_for_100_continue:
            self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        while not self._body_done:
            try:
                async with asyncio.timeout(body.patience):
                    chunk = await (self._chunked(body) if self._remaining is None else self._counted())
            except TimeoutError:
                detail = f"no more of the body came for {body.patience:g} seconds"
                raise RefusalError(ErrorCode.REQUEST_TIMEOUT, detail) from None
            if chunk:
                yield chunk

    async def _counted(self) -> bytes:
        assert self._remaining is not None
        chunk = await self._chunk()
        if len(chunk) > self._remaining:
            self._unread(chunk[self._remaining :])
            chunk = chunk[: self._remaining]
        self._remaining -= len(chunk)
        self._body_done = self._remaining == 0
        return chunk

    async def _chunked(self, body: ClientBody) -> bytes:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise RefusalError(ErrorCode.BAD_REQUEST, f"the body is not chunked properly: {error}") from None
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                body.trailers = tuple(event.headers)
                self._unread(self._http.trailing_data[0])
                self._body_done = True
                return b""
            self._http.receive_data(await self._chunk())

    async def _chunk(self) -> bytes:
        """What has arrived next, which is never nothing."""
        if not self._received:
            await self._more()
        chunk = self._received.popleft()
        self._received_size -= len(chunk)
        return chunk

    async def _more(self) -> None:
        self._resume_reading()
        self._arrival = asyncio.get_running_loop().create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    def _unread(self, data: bytes) -> None:
        if data:
            self._received.appendleft(data)
            self._received_size += len(data)

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    # Responses

    async def _respond(self, response: Response, *, bodiless: bool) -> None:
        if isinstance(response.body, bytes):
            body = b"" if bodiless else response.body
            # One write, one TLS record, one packet.
            self._write(self._response_head(response), self._data(body), self._http.send(h11.EndOfMessage()))
        else:
            async with aclosing(response.body):
                await self._stream(response, response.body, bodiless=bodiless)
        await self._drain()

    async def _stream(self, response: Response, body: Stream, *, bodiless: bool) -> None:
        self._write(self._response_head(response))
        bodiless = bodiless or response.status in _BODILESS
        async for chunk in body:
            if not bodiless:
                self._write(self._data(chunk))
                await self._drain()
        # h11 refuses trailers where there is no chunked body for them.
        known = response.size is not None or any(name == b"content-length" for name, _ in response.fields or ())
        chunked = not bodiless and not known and self._http.their_http_version == b"1.1"
        trailers = list(response.trailers) if chunked else []
        self._write(self._http.send(h11.EndOfMessage(headers=trailers)))

    def _response_head(self, response: Response) -> bytes | None:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        own = {**response.headers, "date": date}
        if response.fields is None:
            own["cache-control"] = "no-store"
        if response.size is not None and response.status != HTTPStatus.NO_CONTENT:
            own["content-length"] = str(response.size)
        if self._finishing or not (self._body_done or self._rest_is_small):
            own["connection"] = "close"
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in own.items()]
        headers += response.fields or ()
        status = response.status
        reason = status.phrase if isinstance(status, HTTPStatus) else ""
        return self._http.send(h11.Response(status_code=int(status), reason=reason, headers=headers))

    def _data(self, chunk: bytes) -> bytes | None:
        return self._http.send(h11.Data(data=chunk)) if chunk else b""

    def _write(self, *parts: bytes | None) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(b"".join(part for part in parts if part))

    async def _drain(self) -> None:
        if self._writable is not None:
            async with asyncio.timeout(self._deadlines.write):
                await self._writable

    async def _settle(self) -> bool:
        """After a response: whether the connection can go on."""
        if not self._body_done:
            if self._http.our_state is not h11.DONE or not self._rest_is_small:
                await self._linger()
                return False
            async with asyncio.timeout(self._deadlines.linger):
                while not self._body_done:
                    await self._counted()
        return self._http.our_state is h11.DONE

    @property
    def _rest_is_small(self) -> bool:
        """Whether what nobody read of the body costs less than another handshake."""
        if self._http.they_are_waiting_for_100_continue or self._remaining is None:
            return False
        return self._remaining <= MAX_IGNORED

    async def _linger(self) -> None:
        """Throw away what still comes: closing with unread data resets the connection under the answer."""
        try:
            async with asyncio.timeout(self._deadlines.linger):
                while True:
                    await self._chunk()
        except TimeoutError:
            return


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
