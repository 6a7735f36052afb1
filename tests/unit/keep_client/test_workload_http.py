"""Requests to a keep's workload through the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from keep_client import AsyncKeepClient, Credentials, InvalidArgumentError, ProblemError, ProtocolError
from keep_protocol.errors import PROBLEM_HEADER, PROBLEM_MEDIA_TYPE, ErrorCode, RefusalError
from tests.unit.keep_client.conftest import StartKeep
from tests.unit.keep_client.servers import Received, Reply


def echo(request: Received) -> Reply:
    return Reply(418, request.body, "text/plain", {"x-method": request.method, "x-path": request.path})


def trapped(_: Received) -> Reply:
    problem = RefusalError(ErrorCode.HTTP_TRAPPED, "wasm trap", trap="unreachable", backtrace=("main!f+0x1",)).problem()
    return Reply(502, msgspec.json.encode(problem), PROBLEM_MEDIA_TYPE, {PROBLEM_HEADER: "http-trapped"})


def test_every_status_is_the_workloads(start_keep: StartKeep) -> None:
    server, keep = start_keep(echo)
    with keep.http("PUT", "/a%20b?c=d", headers={"x-mine": "1"}, body=iter([b"one", b"two"])) as response:
        assert (response.status, response.read()) == (418, b"onetwo")
        assert response.header("X-Method") == "PUT"
        assert ("x-path", "/v1/http/a%20b") in response.headers
    assert server.received[0].headers["x-mine"] == "1"
    assert server.received[0].query == {"c": "d"}


def test_a_502_of_the_workload_is_no_problem_of_the_keep(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: Reply(502, b"bad day", "text/plain"))
    with keep.http("GET", "/") as response:
        assert (response.status, response.read()) == (502, b"bad day")


def test_a_problem_of_the_keep_is_raised(start_keep: StartKeep) -> None:
    _, keep = start_keep(trapped)
    with pytest.raises(ProblemError, match="wasm trap") as raised, keep.http("GET", "/"):
        pass
    assert (raised.value.code, raised.value.backtrace) == ("http-trapped", ("main!f+0x1",))


def test_a_response_is_read_up_to_a_limit(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: Reply(200, b"x" * 1000, "text/plain"))
    with keep.http("GET", "/") as response, pytest.raises(ProtocolError, match="more than 999 bytes"):
        response.read(999)


def test_a_path_begins_with_a_slash(start_keep: StartKeep) -> None:
    _, keep = start_keep(echo)
    with pytest.raises(InvalidArgumentError, match="begins with '/'"), keep.http("GET", "x"):
        pass


def test_the_async_client_does_the_same(start_keep: StartKeep, credentials: Credentials) -> None:
    server, keep = start_keep(echo)

    async def body() -> AsyncIterator[bytes]:
        yield b"one"

    async def ask() -> tuple[int, bytes]:
        async with (
            AsyncKeepClient(keep.endpoint, keep.peer, credentials=credentials) as client,
            client.http("POST", "/x", body=body()) as response,
        ):
            return response.status, await response.read()

    assert asyncio.run(ask()) == (418, b"one")
    server.respond = trapped

    async def fail() -> None:
        async with (
            AsyncKeepClient(keep.endpoint, keep.peer, credentials=credentials) as client,
            client.http("GET", "/"),
        ):
            pass

    with pytest.raises(ProblemError, match="wasm trap"):
        asyncio.run(fail())


def test_what_the_workload_printed_is_fetched_as_bytes(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(200, b"complaint\n", "application/octet-stream"))
    assert keep.http_log(7) == b"complaint\n"
    assert (server.received[0].path, server.received[0].query) == ("/v1/http-log", {"offset": "7"})
