"""HTTP requests that a workload answers, through a keep's own process, TLS and routes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.app_loader.execution_harness import ECHO, wat
from tests.unit.app_loader.http_keep import WEB, HttpKeep, http_keep
from tests.unit.app_loader.serving import Wire

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpKeep]:
    with http_keep(tmp_path_factory.mktemp("http") / "keep") as running:
        yield running


def response_head(wire: Wire) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers, in order and with those that are there twice."""
    lines = iter(wire._reader.readline, b"\r\n")
    status = int(next(lines).split()[1])
    headers = [line.decode().strip().partition(": ") for line in lines]
    return status, [(name, value) for name, _, value in headers]


PRINTS = """(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $error (type $outer)) (export "error" (type $cause (eq $outer)))
    (type $variant (variant (case "last-operation-failed" (own $cause)) (case "closed")))
    (export "stream-error" (type $failure (eq $variant)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $failure)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer)) (export "output-stream" (type $stream (eq $outer)))
    (export "get-stdout" (func (result (own $stream))))))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $stream (type $outer)) (export "output-stream" (type $stream (eq $outer)))
    (export "get-stderr" (func (result (own $stream))))))
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource))) (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $response))
  (core module $text (memory (export "memory") 1) (data (i32.const 0) "said\\0acomplaint\\0a"))
  (core instance $text (instantiate $text))
  (core func $stdout (canon lower (func $stdout "get-stdout")))
  (core func $stderr (canon lower (func $stderr "get-stderr")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $text "memory"))))
  (core instance $host
    (export "stdout" (func $stdout)) (export "stderr" (func $stderr)) (export "write" (func $write)))
  (core module $main
    (import "host" "stdout" (func $stdout (result i32))) (import "host" "stderr" (func $stderr (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "handle") (param i32 i32)
      (call $write (call $stdout) (i32.const 0) (i32.const 5) (i32.const 64))
      (call $write (call $stderr) (i32.const 5) (i32.const 10) (i32.const 64))))
  (core instance $main (instantiate $main (with "host" (instance $host))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $response))
    (canon lift (core func $main "handle")))
  (instance $exported (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $exported)))"""


def test_what_a_component_prints_is_the_owners_to_read_even_if_it_does_not_answer(tmp_path: Path) -> None:
    component = tmp_path / "prints.wasm"
    component.write_bytes(wat(PRINTS))
    with http_keep(tmp_path / "keep", component) as keep:
        assert keep.ask("/").problem.code == "http-unanswered"
        assert keep.connect(keep.owner).ask("GET", "/v1/http-log").body == b"said\ncomplaint\n"
        assert keep.connect(keep.caller).ask("GET", "/v1/http-log").status == 403


def test_the_example_greets_and_echoes(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", WEB) as keep:
        assert keep.ask("/").body == b"Hello from a keep!\n"
        assert keep.ask("/anything", "POST", b"as it came").body == b"as it came"


def test_a_guest_gets_method_path_query_and_authority(keep: HttpKeep) -> None:
    lines = keep.ask("/describe?a=%20b&c").body.decode().splitlines()
    assert lines == ["0", "/describe?a=%20b&c", "keep"]


@pytest.mark.parametrize(
    ("method", "number"), [("GET", 0), ("POST", 2), ("PUT", 3), ("DELETE", 4), ("OPTIONS", 6), ("PATCH", 8)]
)
def test_all_methods_reach_the_guest(keep: HttpKeep, method: str, number: int) -> None:
    assert keep.ask("/describe", method).body.startswith(f"{number}\n".encode())


def test_a_path_is_not_normalized_on_its_way(keep: HttpKeep) -> None:
    assert keep.ask("/describe?../%2e%2e//x").body.decode().splitlines()[1] == "/describe?../%2e%2e//x"
    assert keep.ask("//../a%2Fb").status == 404  # the guest's own


def test_headers_of_one_connection_do_not_reach_the_guest(keep: HttpKeep) -> None:
    answer = keep.ask(
        "/describe", connection="x-mine, keep-alive", x_mine="1", keep_alive="1", te="trailers", x_fine="a  b"
    )
    assert answer.body.decode().splitlines()[3:] == ["x-fine: a  b"]


def test_a_guest_cannot_set_headers_of_the_connection(keep: HttpKeep) -> None:
    # 1: set, 2: invalid syntax, 3: forbidden; the last value has a line break in it.
    assert keep.ask("/refused-headers").body == b"333212"


def test_headers_that_repeat_stay_apart_and_the_keeps_own_cannot_be_forged(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"GET /v1/http/cookies HTTP/1.1\r\nhost: keep\r\n\r\n")
    status, headers = response_head(wire)
    assert status == 200
    assert [value for name, value in headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert "wasmkeep-problem" not in dict(headers)
    assert [name for name, _ in headers].count("date") == 1


def test_a_response_without_content_has_no_body(keep: HttpKeep) -> None:
    wire = keep.connect()
    answer = wire.ask("GET", "/v1/http/no-content")
    assert (answer.status, answer.body) == (204, b"")
    assert wire.ask("GET", "/v1/http/hello").body == b"Hello, world!\n"


@pytest.mark.parametrize(("path", "status"), [("/teapot", 418), ("/unknown-status", 799), ("/nowhere", 404)])
def test_a_status_is_the_guests(keep: HttpKeep, path: str, status: int) -> None:
    assert keep.ask(path).status == status


def test_head_has_the_headers_and_no_body(keep: HttpKeep) -> None:
    wire = keep.connect()
    assert wire.ask("HEAD", "/v1/http/hello").headers["content-type"] == "text/plain"
    assert wire.ask("GET", "/v1/http/hello").body == b"Hello, world!\n"


def test_every_request_has_an_instance_of_its_own_on_a_connection_that_is_kept(keep: HttpKeep) -> None:
    wire = keep.connect()
    before = keep.processes()
    assert [wire.ask("GET", "/v1/http/count").body for _ in range(50)] == [b"1"] * 50
    # One process for all of them.
    assert len(keep.processes() - before) <= 1


def test_a_body_is_echoed_before_it_has_come_to_its_end(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.send(b"5\r\nfirst\r\n")
    assert wire.head() == 200
    assert wire.chunk() == b"first"
    wire.send(b"6\r\nsecond\r\n0\r\n\r\n")
    assert wire.chunk() == b"second"
    assert wire.chunk() == b""


def test_trailers_go_both_ways(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"POST /v1/http/trailers HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.send(b"4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n")
    assert wire.head() == 200
    assert wire.chunk() == b"body"
    assert wire._reader.readline() == b"0\r\n"
    assert sorted(iter(wire._reader.readline, b"\r\n")) == [b"x-last: yes\r\n", b"x-sum: 42\r\n"]


def test_bodies_of_any_size_take_constant_memory(keep: HttpKeep) -> None:
    keep.ask("/echo", "POST", b"warm")
    before = peak(keep)
    block = bytes(range(256)) * 1024
    count = 48 * MIB // len(block)

    async def send(writer: asyncio.StreamWriter) -> None:
        head = b"POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (count * len(block)))
        for _ in range(count):
            writer.write(block)
            await writer.drain()

    async def receive(reader: asyncio.StreamReader) -> str:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        digest = hashlib.sha256()
        while size := int(await reader.readline(), 16):
            digest.update(await reader.readexactly(size))
            await reader.readline()
        return digest.hexdigest()

    async def exchange() -> str:
        reader, writer = await asyncio.open_connection(
            *keep.address, ssl=keep.context(keep.caller), server_hostname=keep.name
        )
        _, digest = await asyncio.gather(send(writer), receive(reader))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return digest

    assert asyncio.run(exchange()) == hashlib.sha256(block * count).hexdigest()
    assert peak(keep) - before < 8 * MIB


def peak(keep: HttpKeep) -> int:
    """Bytes of memory that the keep's server has used at the most."""
    for line in Path(f"/proc/{keep.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def test_a_guest_that_floods_is_held_back_by_a_client_that_does_not_read(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.ask("GET", "/v1/http/hello")
    before = peak(keep)
    wire.send(b"GET /v1/http/flood HTTP/1.1\r\nhost: keep\r\n\r\n")
    assert wire.head() == 200
    assert wire.chunk()
    # Others are served meanwhile.
    assert [keep.ask("/hello").status for _ in range(20)] == [200] * 20
    assert peak(keep) - before < 8 * MIB
    wire.close()


def test_a_guest_can_wait_without_being_asked_again(keep: HttpKeep) -> None:
    assert keep.ask("/nap").body == b"rested"


def test_only_owners_and_callers_reach_the_workload(keep: HttpKeep) -> None:
    assert keep.connect(keep.owner).ask("GET", "/v1/http/hello").status == 200
    refused = keep.connect(keep.auditor).ask("GET", "/v1/http/hello")
    assert (refused.status, refused.problem.code) == (403, "forbidden")


def test_other_methods_are_not_allowed(keep: HttpKeep) -> None:
    refused = keep.ask("/hello", "TRACE")
    assert refused.status == 405
    assert refused.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


def test_a_workload_that_answers_no_requests_is_named(tmp_path: Path) -> None:
    echo = tmp_path / "echo.wasm"
    echo.write_bytes(ECHO)
    with http_keep(tmp_path / "keep", echo) as keep:
        refused = keep.ask("/")
        assert (refused.status, refused.problem.code) == (409, "workload-not-http")
        assert refused.headers["wasmkeep-problem"] == "workload-not-http"
        assert "a command" in refused.problem.detail


def test_a_new_workload_answers_as_soon_as_it_is_loaded(keep: HttpKeep, tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep") as other:
        wire = other.connect(other.owner)
        assert wire.ask("GET", "/v1/http/").status == 404
        wire.ask("PUT", "/v1/workload", WEB.read_bytes(), content_type="application/wasm")
        assert wire.ask("GET", "/v1/http/").body == b"Hello from a keep!\n"


def test_the_configuration_gives_environment_and_limits_and_may_end_it(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep") as keep:
        owner = keep.connect(keep.owner)

        def configure(document: bytes) -> None:
            assert owner.ask("PUT", "/v1/configuration", document, content_type="application/json").status == 200

        assert keep.ask("/environment").body == b""
        configure(b'{"env": {"COLOUR": "blue"}, "limits": {"run_time": 1}}')
        assert keep.ask("/environment").body == b"COLOUR=blue\n"
        assert keep.ask("/sleep").problem.detail == "the workload took longer than 1 s"
        configure(b'{"http": {"enabled": false}}')
        assert keep.ask("/environment").problem.code == "workload-not-http"


def test_an_instance_answers_further_requests_if_the_configuration_says_so(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", runs=1) as keep:
        first = keep.ask("/count").body
        assert keep.ask("/count").body == first
        assert keep.configure({"reuse": True}).status == 200
        counted = [keep.ask("/count").body for _ in range(3)]
        assert len(set(counted)) == 3
        # Bodies, headers and handles of one request are no trouble for the next.
        for body in (b"one", b"two" * 100_000):
            assert keep.ask("/echo", "POST", body).body == body
        assert keep.ask("/trap").problem.code == "http-trapped"
        assert keep.ask("/count").body == first
        with pytest.raises(EOFError):
            keep.ask("/unfinished")
        assert keep.ask("/count").body == first
        assert keep.configure({}).status == 200
        assert [keep.ask("/count").body for _ in range(2)] == [first, first]


def test_a_process_whose_client_goes_away_is_ended(keep: HttpKeep) -> None:
    before = keep.processes()
    wire = keep.connect()
    wire.send(b"GET /v1/http/spin-late HTTP/1.1\r\nhost: keep\r\n\r\n")
    assert wire.head() == 200
    wire.close()
    for _ in range(2000):
        if keep.processes() <= before:
            break
        select.select([], [], [], 0.01)
    assert keep.processes() <= before
