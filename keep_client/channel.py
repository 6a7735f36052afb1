"""The sync side of all I/O: one pool of verified connections to one peer, over httpx."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager

import httpx

from keep_client.calls import MAX_ANSWER, Call, Head, Request, StreamCall, T, problem, succeeded
from keep_client.connections import Connections
from keep_client.errors import ConnectionBrokenError, InvalidArgumentError, ProtocolError
from keep_client.failures import TRANSPORT_ERRORS, translated

BodyFactory = Callable[[], Iterable[bytes]]
"""Makes the body of an upload, anew for every attempt."""

Content = bytes | Iterable[bytes] | AsyncIterable[bytes] | None

CONNECT_TIMEOUT = 10.0
WRITE_TIMEOUT = 60.0


def head_of(response: httpx.Response) -> Head:
    """Status and header fields. Raises `ProtocolError` for encodings that were not asked for."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError("the answer is compressed, although that was not asked for")
    return Head(response.status_code, {name.lower(): value for name, value in response.headers.items()})


def to_send(request: Request, base_url: str, content: Content) -> httpx.Request:
    """`request` for one of httpx's transports, with how long each of its steps may take.

    Their clients do more than that, such as cookies and redirects, and take half a millisecond for it.
    """
    timeout = httpx.Timeout(CONNECT_TIMEOUT, read=request.read_timeout, write=WRITE_TIMEOUT)
    return httpx.Request(
        request.method,
        base_url + request.target,
        # A compressed answer could expand without limit, so none is accepted.
        headers={"accept-encoding": "identity", **request.headers},
        content=content,
        extensions={"timeout": timeout.as_dict()},
    )


class Channel:
    """Sends calls to the peer at `base_url`. `peer` names it in messages. Safe for use from several threads."""

    def __init__(self, base_url: str, connections: Connections, peer: str) -> None:
        self._base_url = base_url
        self._connections = connections
        self._peer = peer
        self._closed = False
        self._pool = self._new_pool()

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._pool.close()

    def call(self, call: Call[T], body: BodyFactory | None = None) -> T:
        """Send it, once more if the connection broke and that does no harm, and decode the answer."""
        try:
            answer = self._answer(self._pool, call, body)
        except ConnectionBrokenError:
            if not call.request.repeatable:
                raise
            # The pool may hold further connections to a process that has died.
            with self._new_pool() as fresh:
                answer = self._answer(fresh, call, body)
        return call.decode(*answer)

    def stream(self, call: StreamCall, *, fresh: bool = False) -> Generator[bytes, None, None]:
        """Send it, over a new connection where `fresh`, and yield the bytes of the answer as they come."""
        with ExitStack() as stack:
            pool = stack.enter_context(self._new_pool()) if fresh else self._pool
            response = stack.enter_context(self._exchange(pool, call.request, None))
            head = head_of(response)
            if not succeeded(head):
                raise problem(head, _read(response))
            call.check(head)
            yield from response.iter_raw()

    @contextmanager
    def exchange(self, request: Request, body: Content = None) -> Iterator[httpx.Response]:
        """Send it once and yield the response as it is, its body unread."""
        with self._exchange(self._pool, request, None if body is None else lambda: body) as response:
            yield response

    def _new_pool(self) -> httpx.HTTPTransport:
        # Pools are keyed by address and not by whom they accept: never shared between channels.
        return self._connections.transport()

    def _answer(self, pool: httpx.HTTPTransport, call: Call[T], body: BodyFactory | None) -> tuple[Head, bytes]:
        with self._exchange(pool, call.request, body) as response:
            head = head_of(response)
            if not succeeded(head):
                raise problem(head, _read(response))
            call.check(head)
            return head, _read(response)

    @contextmanager
    def _exchange(
        self, pool: httpx.HTTPTransport, request: Request, body: Callable[[], Content] | None
    ) -> Iterator[httpx.Response]:
        if self._closed:
            raise InvalidArgumentError(f"the client for {self._peer} is closed")
        content = request.body if body is None else body()
        try:
            with closing(pool.handle_request(to_send(request, self._base_url, content))) as response:
                yield response
        except TRANSPORT_ERRORS as error:
            raise translated(error, self._peer) from error


def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise ProtocolError(f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(content)
