"""What guests and clients can do to HTTP requests, and that it costs nobody else anything."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import pytest

from app_loader.http_service import HttpService
from app_loader.messages import Fields, Request, Response
from app_loader.worker_pool import MAX_WAITING
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import DEFAULT_LIMITS, MiB
from keep_protocol.states import KeepRole
from tests.unit.app_loader.asking import client, request, session
from tests.unit.app_loader.execution_harness import Execution, execute, refused, spec
from tests.unit.app_loader.http_keep import PROBE, HttpKeep, http_keep
from tests.unit.app_loader.serving import Wire

MEMORY = 64 * MiB
TIMEOUT = 2


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpKeep]:
    folder = tmp_path_factory.mktemp("http") / "keep"
    with http_keep(folder, memory=MEMORY, run_time=TIMEOUT) as running:
        yield running


def serves(keep: HttpKeep) -> bool:
    return keep.ask("/hello").body == b"Hello, world!\n"


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/trap", 502, "http-trapped", "unreachable"),
        ("/nothing", 502, "http-unanswered", "without a response"),
        ("/error", 502, "http-unanswered", "HTTP-request-denied"),
        ("/memory", 507, "http-memory", ""),
        ("/header-bomb", 502, "http-trapped", "fields of"),
        ("/handle-bomb", 502, "http-trapped", "4096 handles"),
        ("/spin", 504, "http-timeout", "longer than 2 s"),
        ("/sleep", 504, "http-timeout", "longer than 2 s"),
    ],
)
def test_a_guest_that_does_not_answer_costs_its_own_request(
    keep: HttpKeep, path: str, status: int, code: str, words: str
) -> None:
    answer = keep.ask(path)
    assert (answer.status, answer.problem.code, answer.headers["wasmkeep-problem"]) == (status, code, code)
    assert words in answer.problem.detail
    assert serves(keep)


def test_a_trap_tells_where_it_was(keep: HttpKeep) -> None:
    problem = keep.ask("/trap").problem
    assert problem.trap == "unreachable"
    assert problem.backtrace


@pytest.mark.parametrize("path", ["/trap-late", "/unfinished", "/spin-late", "/too-short", "/too-long", "/write-bomb"])
def test_a_response_that_breaks_off_is_not_taken_for_whole(keep: HttpKeep, path: str) -> None:
    with pytest.raises(EOFError):
        keep.ask(path)
    assert serves(keep)


def test_several_requests_are_answered_while_one_hangs(keep: HttpKeep) -> None:
    hanging = keep.connect()
    hanging.send(b"GET /v1/http/sleep HTTP/1.1\r\nhost: keep\r\n\r\n")
    assert serves(keep)
    assert hanging.answer().status == 504


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET /v1/http/hello HTTP/1.1\r\nhost : keep\r\n\r\n",
        "GET /v1/http/hello HTTP/1.1\r\nhost: keep\r\nhost: other\r\n\r\n",
        "GET /v1/http/hello HTTP/1.1\r\n\r\n",
        "GET /v1/http/he llo HTTP/1.1\r\nhost: keep\r\n\r\n",
        "GET http://other/v1/http/hello HTTP/1.1\r\nhost: keep\r\n\r\n",
        "CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n",
        "GET /v1/http/hello HTTP/1.1\r\nhost: keep\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /v1/http/hello HTTP/1.1\r\nhost: keep\r\n" + "a: b\r\n" * 200 + "\r\n",
        "GET /v1/http/hello HTTP/1.1\r\nhost: keep\r\nlong: " + "x" * 300_000 + "\r\n\r\n",
    ],
)
def test_what_two_parsers_might_read_in_two_ways_is_refused(keep: HttpKeep, head: str) -> None:
    wire = keep.connect()
    wire.send(head.encode())
    assert wire.answer().status in {400, 431}


@pytest.mark.parametrize(
    ("method", "path", "media_type", "field"),
    [
        ("POST", "/v1/call/%ff", "application/json", "function"),
        ("POST", "/v1/call/%ed%a0%80", "application/json", "function"),
        ("PUT", "/v1/workload?runtime=%ff", "text/x-python", "runtime"),
    ],
)
def test_what_is_not_utf_8_in_a_url_is_refused(
    keep: HttpKeep, method: str, path: str, media_type: str, field: str
) -> None:
    answer = keep.connect(keep.owner).ask(method, path, b"{}", content_type=media_type)
    assert (answer.status, answer.problem.field) == (400, field)


def test_a_chunk_that_is_none_is_not_taken_for_the_end(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"POST /v1/http/swallow HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
    assert wire.answer().status == 400
    assert serves(keep)


def test_clients_that_leave_leave_nothing_behind(keep: HttpKeep) -> None:
    assert serves(keep)
    descriptors = keep.descriptors()
    for _ in range(20):
        wires = [keep.connect() for _ in range(4)]
        for wire in wires:
            wire.send(b"GET /v1/http/spin-late HTTP/1.1\r\nhost: keep\r\n\r\n")
            assert wire.head() == 200
        for wire in wires:
            wire.close()
    assert serves(keep)
    settle(keep, descriptors)


def test_ten_thousand_requests_leave_nothing_behind(keep: HttpKeep) -> None:
    wire = keep.connect()
    assert serves(keep)
    descriptors = keep.descriptors()
    requests = b"GET /v1/http/hello HTTP/1.1\r\nhost: keep\r\n\r\n" * 100
    for _ in range(100):
        wire.send(requests)
        for _ in range(100):
            answered(wire)
    settle(keep, descriptors)


def answered(wire: Wire) -> None:
    answer = wire.answer()
    assert (answer.status, answer.body) == (200, b"Hello, world!\n")


def settle(keep: HttpKeep, descriptors: int) -> None:
    """Wait until there is no more than server, runner, its spare child and a process for each request at a time."""
    for _ in range(2000):
        if len(keep.processes()) <= 3 + DEFAULT_LIMITS.runs and keep.descriptors() <= descriptors + DEFAULT_LIMITS.runs:
            return
        select.select([], [], [], 0.01)
    raise AssertionError(
        f"{len(keep.processes())} processes, {keep.descriptors()} descriptors instead of {descriptors}"
    )


class BrokenBody:
    """A body that begins well."""

    def __init__(self, *chunks: bytes, refusal: RefusalError | None = None) -> None:
        self.size: int | None = None
        self.patience: float | None = None
        self.trailers: Fields = ()
        self._chunks = chunks
        self._refusal = refusal

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._refusal is not None:
            raise self._refusal
        await asyncio.Event().wait()


def service(keep: Execution, *, runs: int = 4) -> HttpService:
    return HttpService(keep.runner, keep.workload, spec(runs=runs).limits)


async def body_of(response: Response) -> bytes:
    assert not isinstance(response.body, bytes)
    content = b"".join([chunk async for chunk in response.body])
    await response.body.aclose()
    return content


def posted(path: str, body: BrokenBody) -> Request:
    return Request("POST", f"/v1/http{path}".encode(), {"host": "keep"}, body, client(KeepRole.CALLER), session())


def test_a_client_that_is_too_slow_with_its_body_is_told_so_and_its_guest_ended(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(PROBE.read_bytes())
        http = service(keep)
        late = BrokenBody(b"begin", refusal=RefusalError(ErrorCode.REQUEST_TIMEOUT, "no more of the body came"))
        # This guest answers when it has all of the body.
        with refused(ErrorCode.REQUEST_TIMEOUT):
            await http.answer(posted("/swallow", late))
        assert await body_of(await http.answer(request("GET", "/v1/http/hello"))) == b"Hello, world!\n"
        http.close()

    execute(tmp_path, scenario)


def test_a_guest_that_does_not_read_the_body_answers_all_the_same(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(PROBE.read_bytes())
        http = service(keep)
        for _ in range(3):
            response = await http.answer(posted("/hello", BrokenBody(b"x" * 100_000)))
            assert await body_of(response) == b"Hello, world!\n"
        http.close()

    execute(tmp_path, scenario)


def test_requests_beyond_the_queue_are_refused_and_those_in_it_are_answered(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(PROBE.read_bytes())
        http = service(keep, runs=1)

        async def hello() -> bytes:
            return await body_of(await http.answer(request("GET", "/v1/http/hello")))

        going = await http.answer(request("GET", "/v1/http/spin-late"))
        waiting = [asyncio.create_task(hello()) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with refused(ErrorCode.TOO_MANY_REQUESTS):
            await hello()
        assert not isinstance(going.body, bytes)
        await going.body.aclose()
        assert await asyncio.gather(*waiting) == [b"Hello, world!\n"] * MAX_WAITING
        http.close()

    execute(tmp_path, scenario)


def test_whoever_is_one_too_many_is_told_and_the_owner_can_still_ask(tmp_path: Path) -> None:
    (folder := tmp_path / "keep").mkdir()
    count = 1 + MAX_WAITING + 1
    with ThreadPoolExecutor(count) as readers, http_keep(folder, run_time=60, runs=1) as keep:
        wires = [keep.connect() for _ in range(count)]
        for wire in wires:
            wire.send(b"GET /v1/http/sleep HTTP/1.1\r\nhost: keep\r\n\r\n")
        answer = next(as_completed([readers.submit(wire.answer) for wire in wires])).result()
        assert (answer.status, answer.headers["retry-after"].isdecimal()) == (429, True)
        assert keep.connect(keep.owner).ask("GET", "/v1/status").status == 200
        keep.kill()


def test_a_request_ends_with_the_runner(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(PROBE.read_bytes())
        http = service(keep)
        asking = asyncio.create_task(http.answer(request("GET", "/v1/http/sleep")))
        while not keep.runner.pids:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await keep.runner.close()
        with refused(ErrorCode.HTTP_LOST):
            await asking
        with refused(ErrorCode.HTTP_LOST):
            await http.answer(request("GET", "/v1/http/hello"))

    execute(tmp_path, scenario)


def test_the_problem_of_a_guest_is_decoded_like_any_other(keep: HttpKeep) -> None:
    problem = msgspec.json.decode(keep.ask("/trap").body)
    assert set(problem) == {"type", "title", "status", "detail", "code", "trap", "backtrace"}
