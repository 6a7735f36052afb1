"""The async side of all I/O: the twin of `keep_client.channel`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from keep_client.calls import MAX_ANSWER, Call, Head, Request, StreamCall, T, problem, succeeded
from keep_client.channel import Content, head_of, to_send
from keep_client.connections import Connections
from keep_client.errors import ConnectionBrokenError, InvalidArgumentError, ProtocolError
from keep_client.failures import TRANSPORT_ERRORS, translated

AsyncBodyFactory = Callable[[], AsyncIterable[bytes]]
"""Makes the body of an upload, anew for every attempt."""


class AsyncChannel:
    """Sends calls to the peer at `base_url`. `peer` names it in messages."""

    def __init__(self, base_url: str, connections: Connections, peer: str) -> None:
        self._base_url = base_url
        self._connections = connections
        self._peer = peer
        self._closed = False
        self._pool = self._new_pool()

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        await self._pool.aclose()

    async def call(self, call: Call[T], body: AsyncBodyFactory | None = None) -> T:
        """Send it, once more if the connection broke and that does no harm, and decode the answer."""
        try:
            answer = await self._answer(self._pool, call, body)
        except ConnectionBrokenError:
            if not call.request.repeatable:
                raise
            # The pool may hold further connections to a process that has died.
            async with self._new_pool() as fresh:
                answer = await self._answer(fresh, call, body)
        return call.decode(*answer)

    async def stream(self, call: StreamCall, *, fresh: bool = False) -> AsyncGenerator[bytes, None]:
        """Send it, over a new connection where `fresh`, and yield the bytes of the answer as they come."""
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(self._new_pool()) if fresh else self._pool
            response = await stack.enter_async_context(self._exchange(pool, call.request, None))
            head = head_of(response)
            if not succeeded(head):
                raise problem(head, await _read(response))
            call.check(head)
            async for chunk in response.aiter_raw():
                yield chunk

    @asynccontextmanager
    async def exchange(self, request: Request, body: Content = None) -> AsyncIterator[httpx.Response]:
        """Send it once and yield the response as it is, its body unread."""
        async with self._exchange(self._pool, request, None if body is None else lambda: body) as response:
            yield response

    def _new_pool(self) -> httpx.AsyncHTTPTransport:
        # Pools are keyed by address and not by whom they accept: never shared between channels.
        return self._connections.async_transport()

    async def _answer(
        self, pool: httpx.AsyncHTTPTransport, call: Call[T], body: AsyncBodyFactory | None
    ) -> tuple[Head, bytes]:
        async with self._exchange(pool, call.request, body) as response:
            head = head_of(response)
            if not succeeded(head):
                raise problem(head, await _read(response))
            call.check(head)
            return head, await _read(response)

    @asynccontextmanager
    async def _exchange(
        self, pool: httpx.AsyncHTTPTransport, request: Request, body: Callable[[], Content] | None
    ) -> AsyncIterator[httpx.Response]:
        if self._closed:
            raise InvalidArgumentError(f"the client for {self._peer} is closed")
        content = request.body if body is None else body()
        try:
            response = await pool.handle_async_request(to_send(request, self._base_url, content))
            try:
                yield response
            finally:
                await response.aclose()
        except TRANSPORT_ERRORS as error:
            raise translated(error, self._peer) from error


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise ProtocolError(f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(content)
