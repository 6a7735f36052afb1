"""HTTP/1.1 as clients may speak it, well and badly, on one connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from app_loader.connection import MAX_UNREAD
from app_loader.deadlines import Deadlines
from app_loader.messages import Request, Response, problem_response
from app_loader.request_head import MAX_HEAD, MAX_HEADERS
from keep_protocol.errors import RefusalError
from tests.unit.app_loader.pki import self_signed
from tests.unit.app_loader.serving import PATIENCE, Serving, Wire

CLIENT = self_signed()
MiB = 1024 * 1024


class Probe:
    """An application that shows what a connection does with it."""

    def __init__(self) -> None:
        self.read = 0
        self.gone = threading.Event()
        self.waiting = threading.Event()

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except RefusalError as refusal:
            return problem_response(refusal)

    async def _answer(self, request: Request) -> Response:
        match request.segments:
            case (b"count",):
                async for chunk in request.body:
                    self.read += len(chunk)
                    self.waiting.set()
                return Response(HTTPStatus.OK, str(self.read).encode())
            case (b"limited",):
                return Response(HTTPStatus.OK, await request.read(16))
            case (b"ignore",):
                return Response(HTTPStatus.OK, b"ignored")
            case (b"stall",):
                self.waiting.set()
                return await self._stall()
            case (b"stream", size):
                return Response(HTTPStatus.OK, _zeros(int(size)))
            case (b"follow",):
                return Response(HTTPStatus.OK, self._endless())
            case (b"break",):
                return Response(HTTPStatus.OK, _broken())
        return Response(HTTPStatus.OK, f"{request.method} {request.segments} ".encode() + await request.read(MiB))

    async def _stall(self) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()
        raise AssertionError

    async def _endless(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            self.gone.set()


async def _zeros(size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, size, 65536):
        yield bytes(min(65536, size - start))


async def _broken() -> AsyncGenerator[bytes, None]:
    yield b"first"
    raise ValueError("the source broke")


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def keep(tmp_path: Path, probe: Probe) -> Iterator[Serving]:
    with Serving(tmp_path, [CLIENT.pinned()], probe, deadlines=Deadlines(linger=0.2)) as serving:
        yield serving


@pytest.fixture
def wire(keep: Serving) -> Wire:
    return keep.connect(CLIENT)


class TestRequests:
    def test_a_connection_serves_one_request_after_the_other(self, wire: Wire) -> None:
        assert [wire.ask("GET", "/a").status for _ in range(3)] == [200, 200, 200]

    def test_pipelined_requests_are_answered_in_order(self, wire: Wire) -> None:
        requests = (
            b"GET /a HTTP/1.1\r\nhost: keep\r\n\r\n"
            b"PUT /b HTTP/1.1\r\nhost: keep\r\ncontent-length: 4\r\n\r\nbody"
            b"PUT /c HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            b"GET /d HTTP/1.1\r\nhost: keep\r\n\r\n"
        )
        wire.send(requests)
        bodies = [wire.answer().body for _ in range(4)]
        assert bodies == [b"GET (b'a',) ", b"PUT (b'b',) body", b"PUT (b'c',) abc", b"GET (b'd',) "]

    def test_requests_cut_at_every_byte_are_understood(self, wire: Wire) -> None:
        request = (
            b"PUT /b HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            b"PUT /b HTTP/1.1\r\nhost: keep\r\ncontent-length: 3\r\n\r\nabc"
        )
        for byte in request:
            wire.send(bytes((byte,)))
        assert wire.answer().body == wire.answer().body == b"PUT (b'b',) abc"

    @pytest.mark.parametrize("size", [1, MAX_UNREAD - 1, MAX_UNREAD + 1, 3 * MiB])
    def test_a_body_with_content_length_arrives_whole(self, wire: Wire, size: int) -> None:
        assert wire.ask("PUT", "/count", bytes(size)).body == str(size).encode()
        assert wire.ask("GET", "/a").status == 200

    @pytest.mark.parametrize("sizes", [(1,), (65536,) * 16, (3 * MiB, 1)])
    def test_a_chunked_body_arrives_whole(self, wire: Wire, sizes: tuple[int, ...]) -> None:
        wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n")
        for size in sizes:
            wire.send(f"{size:x}\r\n".encode() + bytes(size) + b"\r\n")
        wire.send(b"0\r\n\r\n")
        assert wire.answer().body == str(sum(sizes)).encode()
        assert wire.ask("GET", "/a").status == 200

    def test_a_connection_that_was_held_back_goes_on_after_the_body(self, wire: Wire) -> None:
        for _ in range(20):
            wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ncontent-length: 1048576\r\n\r\n" + bytes(MiB))
            assert wire.answer().status == 200

    def test_http_1_0_is_answered_and_closed(self, wire: Wire) -> None:
        wire.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert wire.answer().status == 200
        assert wire.rest() == b""

    def test_http_1_0_gets_a_stream_up_to_the_end_of_the_connection(self, wire: Wire) -> None:
        wire.send(b"GET /stream/100000 HTTP/1.0\r\n\r\n")
        assert wire.head() == 200
        assert wire.rest() == bytes(100_000)

    def test_a_response_to_head_has_no_body(self, wire: Wire) -> None:
        assert wire.ask("HEAD", "/a").headers["content-length"] == "13"
        assert wire.ask("GET", "/a").status == 200


class TestRefusedRequests:
    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"no http at all\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
            b"GET a HTTP/1.1\r\nhost: keep\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nhost: keep\r\n\r\n",
            b"PUT /a HTTP/1.1\r\nhost: keep\r\ncontent-length: -1\r\n\r\n",
            b"PUT /a HTTP/1.1\r\nhost: keep\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            b"PUT /a HTTP/1.1\r\nhost: keep\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"PUT /a HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: gzip\r\n\r\n",
            b"GET /a HTTP/1.1\r\nhost: keep\r\nname : value\r\n\r\n",
        ],
        ids=[
            "no-http",
            "no-host",
            "no-path",
            "asterisk",
            "negative-length",
            "two-lengths",
            "length-and-chunks",
            "other-encoding",
            "space-in-header",
        ],
    )
    def test_what_is_no_request_gets_a_problem_and_is_closed(self, wire: Wire, request_bytes: bytes) -> None:
        wire.send(request_bytes)
        answer = wire.answer()
        assert (answer.status, answer.problem.code) == (400, "bad-request")
        assert answer.headers["connection"] == "close"
        assert wire.rest() == b""

    def test_too_many_headers_are_refused(self, wire: Wire) -> None:
        headers = b"".join(b"x-%d: y\r\n" % number for number in range(MAX_HEADERS))
        wire.send(b"GET /a HTTP/1.1\r\nhost: keep\r\n" + headers + b"\r\n")
        answer = wire.answer()
        assert (answer.status, answer.problem.code) == (431, "head-too-large")

    @pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["without-end", "in-one-piece"])
    def test_a_head_is_refused_beyond_its_limit(self, wire: Wire, end: bytes) -> None:
        wire.send(b"GET /a HTTP/1.1\r\nhost: keep\r\nx: " + b"x" * MAX_HEAD + end)
        answer = wire.answer()
        assert (answer.status, answer.problem.code) == (431, "head-too-large")

    @pytest.mark.parametrize("host", ["keep", "keep:80", "keep:", "[::1]:80", "192.0.2.1", ""])
    def test_a_host_is_taken(self, wire: Wire, host: str) -> None:
        wire.send(f"GET /a HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert wire.answer().status == 200

    @pytest.mark.parametrize("host", ["a b", "user@keep", "keep/a", "keep:http", "[::1", "a, b", "\xff"])
    def test_what_is_no_host_is_refused(self, wire: Wire, host: str) -> None:
        wire.send(f"GET /a HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("latin-1"))
        answer = wire.answer()
        assert (answer.status, answer.problem.field) == (400, "Host")

    def test_a_fragment_is_no_part_of_a_target(self, wire: Wire) -> None:
        wire.send(b"GET /a#b HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert wire.answer().status == 400

    def test_a_malformed_chunk_is_refused_and_the_connection_closed(self, wire: Wire) -> None:
        wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n")
        assert wire.answer().problem.code == "bad-request"
        assert wire.rest() == b""

    def test_a_body_that_stalls_is_answered_with_408(self, tmp_path: Path, probe: Probe) -> None:
        with Serving(tmp_path, [CLIENT.pinned()], probe, deadlines=Deadlines(chunk=0.1, linger=0.1)) as keep:
            wire = keep.connect(CLIENT)
            wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ncontent-length: 10\r\n\r\nabc")
            answer = wire.answer()
            assert (answer.status, answer.problem.code) == (408, "request-timeout")
            assert wire.rest() == b""


class TestExpectations:
    def test_100_continue_comes_when_the_body_is_wanted(self, wire: Wire) -> None:
        wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert wire.head() == 100
        wire.send(b"body")
        assert wire.answer().body == b"4"
        assert wire.ask("GET", "/a").status == 200

    def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(self, wire: Wire) -> None:
        wire.send(b"PUT /limited HTTP/1.1\r\nhost: keep\r\ncontent-length: 17\r\nexpect: 100-continue\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.problem.code) == (413, "body-too-large")
        assert wire.rest() == b""

    def test_a_client_that_sends_a_refused_body_anyway_can_read_the_refusal(self, wire: Wire) -> None:
        wire.send(b"PUT /limited HTTP/1.1\r\nhost: keep\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000))
        assert wire.answer().problem.code == "body-too-large"

    def test_a_chunked_body_is_cut_at_the_limit(self, wire: Wire) -> None:
        wire.send(b"PUT /limited HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n11\r\n" + bytes(17))
        assert wire.answer().problem.code == "body-too-large"

    def test_a_small_body_that_nobody_reads_is_skipped(self, wire: Wire) -> None:
        assert wire.ask("PUT", "/ignore", b"body").body == b"ignored"
        wire.send(b"PUT /ignore HTTP/1.1\r\nhost: keep\r\ncontent-length: 4\r\n\r\n")
        assert wire.answer().body == b"ignored"
        wire.send(b"body")
        assert wire.ask("GET", "/a").status == 200

    @pytest.mark.parametrize(
        "head", [b"content-length: 65537", b"transfer-encoding: chunked", b"expect: 100-continue\r\ncontent-length: 1"]
    )
    def test_another_body_that_nobody_reads_ends_the_connection(self, wire: Wire, head: bytes) -> None:
        wire.send(b"PUT /ignore HTTP/1.1\r\nhost: keep\r\n" + head + b"\r\n\r\n")
        answer = wire.answer()
        assert (answer.body, answer.headers["connection"]) == (b"ignored", "close")
        assert wire.rest() == b""


class TestStreams:
    def test_a_stream_of_unknown_size_is_chunked_and_the_connection_lives_on(self, wire: Wire) -> None:
        assert wire.ask("GET", "/stream/1000000").body == bytes(1_000_000)
        assert wire.ask("GET", "/a").status == 200

    def test_a_follower_sees_what_there_is_at_once(self, wire: Wire) -> None:
        wire.send(b"GET /follow HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert wire.head() == 200
        assert wire.chunk() == b"first"

    def test_a_follower_that_leaves_ends_its_stream(self, wire: Wire, probe: Probe) -> None:
        wire.send(b"GET /follow HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert wire.head() == 200
        wire.close()
        assert probe.gone.wait(PATIENCE)

    def test_a_client_that_leaves_cancels_its_request(self, wire: Wire, probe: Probe) -> None:
        wire.send(b"GET /stall HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert probe.waiting.wait(PATIENCE)
        wire.socket.shutdown(socket.SHUT_RDWR)
        assert probe.gone.wait(PATIENCE)

    def test_a_stream_whose_source_breaks_is_not_taken_for_a_whole_one(
        self, wire: Wire, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire.send(b"GET /break HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert wire.head() == 200
        assert wire.chunk() == b"first"
        with pytest.raises((EOFError, OSError)):
            wire.chunk()
        assert "the source broke" in caplog.text

    def test_an_upload_nobody_reads_is_held_back(self, wire: Wire, probe: Probe) -> None:
        wire.send(b"PUT /stall HTTP/1.1\r\nhost: keep\r\ncontent-length: 1000000000\r\n\r\n")
        assert probe.waiting.wait(PATIENCE)
        wire.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            wire.send(bytes(100 * MiB))

    def test_a_client_that_stops_reading_is_closed(self, tmp_path: Path, probe: Probe) -> None:
        with Serving(tmp_path, [CLIENT.pinned()], probe, deadlines=Deadlines(write=0.2, close=0.2)) as keep:
            wire = keep.connect(CLIENT)
            wire.send(b"GET /stream/1000000000 HTTP/1.1\r\nhost: keep\r\n\r\n")
            assert wire.head() == 200
            keep.wait_until_empty()

    def test_a_client_that_stops_reading_does_not_hold_up_others(self, keep: Serving) -> None:
        stuck = keep.connect(CLIENT)
        stuck.send(b"GET /stream/1000000000 HTTP/1.1\r\nhost: keep\r\n\r\n")
        assert keep.connect(CLIENT).ask("GET", "/a").status == 200

    def test_an_upload_that_breaks_off_frees_its_connection(self, keep: Serving, wire: Wire, probe: Probe) -> None:
        wire.send(b"PUT /count HTTP/1.1\r\nhost: keep\r\ncontent-length: 10\r\n\r\nabc")
        assert probe.waiting.wait(PATIENCE)
        wire.socket.shutdown(socket.SHUT_RDWR)
        keep.wait_until_empty()
