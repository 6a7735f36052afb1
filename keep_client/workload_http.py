"""HTTP requests to the workload of a keep, and its responses as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx

from keep_client.async_channel import AsyncChannel
from keep_client.calls import MAX_ANSWER, Head, Request, problem
from keep_client.channel import Channel, Content
from keep_client.errors import InvalidArgumentError, ProtocolError
from keep_protocol.errors import PROBLEM_HEADER


class _Response:
    """Status and headers of a workload's response; headers in its order, names in lower case."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.multi_items()]

    def header(self, name: str) -> str | None:
        """The values of one header, joined by commas."""
        found: str | None = self._response.headers.get(name)
        return found


class WorkloadResponse(_Response):
    """A response whose body has not been read; iterate over it, or `read` it whole."""

    def __iter__(self) -> Iterator[bytes]:
        """The body as it comes, encoded as the workload has encoded it."""
        return self._response.iter_raw()

    def read(self, limit: int = MAX_ANSWER) -> bytes:
        """The rest of the body. Raises `ProtocolError` beyond `limit` bytes."""
        content = bytearray()
        for chunk in self:
            content += chunk
            _check_size(len(content), limit)
        return bytes(content)


class AsyncWorkloadResponse(_Response):
    """The twin of `WorkloadResponse`."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as it comes, encoded as the workload has encoded it."""
        return self._response.aiter_raw()

    async def read(self, limit: int = MAX_ANSWER) -> bytes:
        """The rest of the body. Raises `ProtocolError` beyond `limit` bytes."""
        content = bytearray()
        async for chunk in self:
            content += chunk
            _check_size(len(content), limit)
        return bytes(content)


@contextmanager
def ask_workload(
    channel: Channel, method: str, path: str, headers: Mapping[str, str] | None, body: Content
) -> Generator[WorkloadResponse, None, None]:
    """`/v1/http/{path}`. Raises `ProblemError` where the keep answers in place of its workload."""
    with channel.exchange(_request(method, path, headers), body) as response:
        if PROBLEM_HEADER in response.headers:
            raise problem(_head(response), WorkloadResponse(response).read())
        yield WorkloadResponse(response)


@asynccontextmanager
async def ask_workload_async(
    channel: AsyncChannel, method: str, path: str, headers: Mapping[str, str] | None, body: Content
) -> AsyncGenerator[AsyncWorkloadResponse, None]:
    """The twin of `ask_workload`."""
    async with channel.exchange(_request(method, path, headers), body) as response:
        if PROBLEM_HEADER in response.headers:
            raise problem(_head(response), await AsyncWorkloadResponse(response).read())
        yield AsyncWorkloadResponse(response)


def _request(method: str, path: str, headers: Mapping[str, str] | None) -> Request:
    if not path.startswith("/"):
        raise InvalidArgumentError(f"{path!a} is no path: it begins with '/'")
    return Request(method, f"/v1/http{path}", headers=dict(headers or {}), read_timeout=None)


def _head(response: httpx.Response) -> Head:
    return Head(response.status_code, {name.lower(): value for name, value in response.headers.items()})


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ProtocolError(f"the response has more than {limit} bytes")
