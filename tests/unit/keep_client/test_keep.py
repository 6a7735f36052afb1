"""Tests of `keep_client.keep`."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from keep_client import (
    AsyncKeepClient,
    ConnectionBrokenError,
    ConnectionFailedError,
    Credentials,
    InvalidArgumentError,
    KeepClient,
    NotAFileError,
    NotAFolderError,
    ProblemError,
    ProtocolError,
)
from keep_client.calls import MAX_ANSWER
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import (
    CallResult,
    FileKind,
    FileList,
    FileStored,
    Run,
    RunExit,
    RunRequest,
    ServedUsage,
    WorkloadInfo,
)
from keep_protocol.served_api import CallList, CallRecord, RequestList, RequestRecord
from keep_protocol.states import ExitReason, FileArea, RunState, ServedOutcome, WorkloadState
from tests.unit.keep_client.certificates import Pair
from tests.unit.keep_client.conftest import StartKeep
from tests.unit.keep_client.servers import Received, Reply, json_reply, problem_reply

WASM = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(WASM).digest()
LOADED = WorkloadInfo(WorkloadState.LOADED, DIGEST.hex(), len(WASM))
RAW = "application/octet-stream"


def _run(state: RunState, ended: RunExit | None = None) -> Run:
    return Run(id="r1", state=state, created_at="2026-01-01T00:00:00Z", workload=DIGEST.hex(), exit=ended)


EXITED = _run(RunState.EXITED, RunExit(ExitReason.CODE, 0))


def test_a_workload_is_announced_with_size_and_digest_and_streamed(start_keep: StartKeep, tmp_path: Path) -> None:
    server, keep = start_keep(lambda _: json_reply(LOADED))
    (file := tmp_path / "a.wasm").write_bytes(WASM)
    sent: list[int] = []
    assert keep.load_workload(file, progress=sent.append) == LOADED
    request = server.received[0]
    assert request.body == WASM
    assert request.headers["content-length"] == str(len(WASM))
    assert request.headers["content-digest"] == f"sha-256=:{b64encode(DIGEST).decode()}:"
    assert request.headers["content-type"] == "application/wasm"
    assert sent == sorted(sent)
    assert sent[-1] == len(WASM)


def test_the_async_twin_sends_the_same_request(
    start_keep: StartKeep, keep_pair: Pair, credentials: Credentials, tmp_path: Path
) -> None:
    server, keep = start_keep(lambda _: json_reply(LOADED))
    (file := tmp_path / "a.wasm").write_bytes(WASM)
    keep.load_workload(file)

    async def load() -> WorkloadInfo:
        twin = AsyncKeepClient.from_certificate(server.endpoint, keep_pair.certificate, credentials=credentials)
        async with twin as client:
            return await client.load_workload(file)

    assert asyncio.run(load()) == LOADED
    first, second = server.received
    assert first == second


def test_a_keep_that_names_another_digest_than_was_sent_is_not_believed(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: json_reply(WorkloadInfo(WorkloadState.LOADED, "0" * 64, 1)))
    with pytest.raises(ProtocolError, match="sent was"):
        keep.load_workload(WASM)


def test_an_upload_is_sent_once_more_when_the_connection_breaks(start_keep: StartKeep) -> None:
    answers = iter([Reply(body=b"{", cut_off=True), json_reply(LOADED)])
    server, keep = start_keep(lambda _: next(answers))
    assert keep.load_workload(WASM) == LOADED
    assert [request.body for request in server.received] == [WASM, WASM]


def test_an_upload_is_not_sent_a_third_time(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(body=b"{", cut_off=True))
    with pytest.raises(ConnectionBrokenError):
        keep.load_workload(WASM)
    assert len(server.received) == 2


def test_the_second_attempt_never_takes_another_connection_of_the_pool(start_keep: StartKeep) -> None:
    together = threading.Barrier(3)
    fresh = threading.Event()
    pooled: set[int] = set()

    def respond(received: Received) -> Reply:
        if not fresh.is_set():
            pooled.add(received.port)
            together.wait(30)
            return json_reply(LOADED)
        return Reply(body=b"{", cut_off=True) if received.port in pooled else json_reply(LOADED)

    _, keep = start_keep(respond)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: keep.workload(), range(3)))
    fresh.set()
    assert [keep.workload() for _ in range(3)] == [LOADED] * 3


def test_a_run_is_never_started_twice(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(202, b"{", cut_off=True))
    with pytest.raises(ConnectionBrokenError):
        keep.start_run(RunRequest())
    assert len(server.received) == 1


def test_waiting_is_asked_for_with_prefer_and_goes_on_until_the_run_has_exited(start_keep: StartKeep) -> None:
    states = iter([_run(RunState.RUNNING), EXITED])
    server, keep = start_keep(lambda _: json_reply(next(states)))
    assert keep.wait_for_run("r1") == EXITED
    assert server.received[0].headers["prefer"] == "wait=20"


def test_waiting_ends_with_its_time(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: json_reply(_run(RunState.RUNNING)))
    assert keep.wait_for_run("r1", timeout=0).state is RunState.RUNNING


def test_output_goes_on_where_a_broken_connection_ended(start_keep: StartKeep) -> None:
    def respond(received: Received) -> Reply:
        offset = int(received.query["offset"])
        return Reply(body=iter([b"0123456789"[offset : offset + 4]]), media_type=RAW, cut_off=offset < 6)

    server, keep = start_keep(respond)
    assert b"".join(keep.output("r1", "stdout", follow=True)) == b"0123456789"
    assert [request.query for request in server.received] == [
        {"offset": str(offset), "follow": "1"} for offset in (0, 4, 8)
    ]


def test_output_that_breaks_without_bringing_anything_is_given_up(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(body=iter(()), media_type=RAW, cut_off=True))
    with pytest.raises(ConnectionBrokenError):
        list(keep.output("r1", "stdout"))
    assert len(server.received) == 2


def test_standard_input_is_streamed(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(204))
    keep.feed_stdin("r1", iter([b"one ", b"two"]))
    assert (server.received[0].body, server.received[0].headers["transfer-encoding"]) == (b"one two", "chunked")


def test_async_standard_input_is_streamed(start_keep: StartKeep, keep_pair: Pair, credentials: Credentials) -> None:
    server, _ = start_keep(lambda _: Reply(204))

    async def feed() -> None:
        async def words() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        twin = AsyncKeepClient.from_certificate(server.endpoint, keep_pair.certificate, credentials=credentials)
        async with twin as client:
            await client.feed_stdin("r1", words())

    asyncio.run(feed())
    assert server.received[0].body == b"one two"


def test_files_and_folders_are_told_apart(start_keep: StartKeep) -> None:
    listing = FileList(FileArea.OUTPUT, "", (FileKind("a b", "file", 3, ""),))

    def respond(received: Received) -> Reply:
        folder = received.path == "/v1/files/output/"
        return json_reply(listing) if folder else Reply(body=b"abc", media_type=RAW)

    server, keep = start_keep(respond)
    assert keep.list_files(FileArea.OUTPUT) == listing
    assert b"".join(keep.read_file(FileArea.OUTPUT, "a b")) == b"abc"
    assert server.received[1].path == "/v1/files/output/a%20b"
    with pytest.raises(NotAFolderError):
        keep.list_files(FileArea.OUTPUT, "a b")
    with pytest.raises(NotAFileError):
        next(keep.read_file(FileArea.OUTPUT, ""))


def test_a_stored_file_is_acknowledged_with_its_digest(start_keep: StartKeep) -> None:
    stored = FileStored(FileArea.INPUT, "ä/x", 3, hashlib.sha256(b"abc").hexdigest())
    server, keep = start_keep(lambda _: json_reply(stored, 201))
    assert keep.put_file(FileArea.INPUT, "ä/x", b"abc") == stored
    assert server.received[0].segments == ("v1", "files", "input", "ä", "x")
    keep.make_folder(FileArea.INPUT, "empty")
    assert server.received[1].path == "/v1/files/input/empty/"


def test_a_function_is_called_with_json_and_its_result_is_json(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply(body=b'{"result": {"ok": [1, "9007199254740993", null]}}'))
    assert keep.call("a:b/c#d", [1, {"x": None}], timeout=2.5) == {"ok": [1, "9007199254740993", None]}
    (asked,) = server.received
    assert (asked.method, asked.path) == ("POST", "/v1/call/a%3Ab%2Fc%23d")
    assert msgspec.json.decode(asked.body) == {"arguments": [1, {"x": None}], "memory": None, "timeout": 2.5}


def test_what_calls_and_requests_used_is_told(start_keep: StartKeep) -> None:
    usage = ServedUsage(0.5, 0.25, 1024, 2, 3)
    calls = CallList((CallRecord("2026-01-01T00:00:00.000Z", "add", ServedOutcome.ANSWERED, usage),))
    requests = RequestList((RequestRecord("2026-01-01T00:00:00.000Z", "GET", "/", ServedOutcome.TIMEOUT),))
    replies = {
        "/v1/call/add": json_reply(CallResult(msgspec.Raw(b"42"), usage)),
        "/v1/calls": json_reply(calls),
        "/v1/http-requests": json_reply(requests),
    }
    _, keep = start_keep(lambda received: replies[received.path])
    assert keep.measured_call("add", (40, 2)) == (42, usage)
    assert keep.list_calls() == calls
    assert keep.list_http_requests() == requests


def test_the_async_twin_calls_too(start_keep: StartKeep, keep_pair: Pair, credentials: Credentials) -> None:
    replies = {"/v1/calls": json_reply(CallList(())), "/v1/http-requests": json_reply(RequestList(()))}
    server, _ = start_keep(lambda received: replies.get(received.path, Reply(body=b'{"result": 42}')))

    async def call() -> object:
        async with AsyncKeepClient.from_certificate(
            server.endpoint, keep_pair.certificate, credentials=credentials
        ) as keep:
            assert await keep.measured_call("add", (40, 2)) == (42, None)
            assert await keep.list_calls() == CallList(())
            assert await keep.list_http_requests() == RequestList(())
            return await keep.call("add", (40, 2))

    assert asyncio.run(call()) == 42


def test_arguments_that_json_has_not_are_never_sent(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: Reply())
    with pytest.raises(InvalidArgumentError):
        keep.call("f", [object()])
    assert server.received == []


def test_a_trap_of_a_call_is_an_error_with_trap_and_backtrace(start_keep: StartKeep) -> None:
    refusal = RefusalError(ErrorCode.CALL_TRAPPED, "wasm trap", trap="unreachable", backtrace=("main!f+0x1",))
    reply = Reply(502, msgspec.json.encode(refusal.problem()), "application/problem+json")
    _, keep = start_keep(lambda _: reply)
    with pytest.raises(ProblemError) as caught:
        keep.call("f")
    assert (caught.value.trap, caught.value.backtrace) == ("unreachable", ("main!f+0x1",))


@pytest.mark.parametrize("body", [b'{"result": 1e999}', b'{"result": ' + b"[" * 5000 + b"]" * 5000 + b"}", b"{}"])
def test_a_result_that_is_none_is_against_the_protocol(start_keep: StartKeep, body: bytes) -> None:
    _, keep = start_keep(lambda _: Reply(body=body))
    with pytest.raises(ProtocolError):
        keep.call("f")


@pytest.mark.parametrize("path", ["../x", "a/../b", "a//b", "./a", "a/", "\udc80"])
def test_paths_that_would_mean_something_else_are_never_sent(start_keep: StartKeep, path: str) -> None:
    server, keep = start_keep(lambda _: Reply())
    with pytest.raises(InvalidArgumentError):
        keep.put_file(FileArea.INPUT, path, b"")
    assert server.received == []


def test_a_problem_becomes_an_error_with_code_and_remedy(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: problem_reply(ErrorCode.WORKLOAD_INVALID, "no wasm: ELF", remedy="send wasm"))
    with pytest.raises(ProblemError, match="no wasm: ELF") as caught:
        keep.load_workload(b"\x7fELF")
    assert (caught.value.code, caught.value.status, caught.value.remedy) == ("workload-invalid", 422, "send wasm")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"{}"),
        Reply(body=b"not json"),
        Reply(body=b'{"state": "\xff"}'),
        Reply(body=b"[]", media_type="text/html"),
        Reply(302, headers={"Location": "https://127.0.0.1:1/"}),
        Reply(500, b"<html>", "text/html"),
        Reply(500, b"{}", "application/problem+json"),
        Reply(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["fields missing", "no JSON", "no UTF-8", "HTML", "redirect", "no problem", "malformed problem", "compressed"],
)
def test_an_answer_against_the_protocol_is_refused(start_keep: StartKeep, reply: Reply) -> None:
    _, keep = start_keep(lambda _: reply)
    with pytest.raises(ProtocolError):
        keep.workload()


def test_an_endless_answer_is_cut_off(start_keep: StartKeep) -> None:
    def without_end() -> Iterator[bytes]:
        while True:
            yield b" " * 1024 * 1024

    _, keep = start_keep(lambda _: Reply(body=without_end()))
    with pytest.raises(ProtocolError, match=f"more than {MAX_ANSWER}"):
        keep.workload()


def test_what_is_no_http_is_a_protocol_error(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: Reply(body=b"{}", headers={"Bad Header": "x"}))
    with pytest.raises(ProtocolError, match="does not speak HTTP"):
        keep.workload()


def test_a_keep_that_does_not_listen_cannot_be_reached(keep_pair: Pair, credentials: Credentials) -> None:
    client = KeepClient.from_certificate("127.0.0.1:1", keep_pair.certificate, credentials=credentials)
    with client as keep, pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1 cannot be reached"):
        keep.status()


@pytest.mark.parametrize(
    "endpoint",
    ["", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "evil@127.0.0.1:1", "127.0.0.1:1/x", "a b:1", "::1:1"],
)
def test_an_endpoint_is_address_and_port_and_nothing_else(
    endpoint: str, keep_pair: Pair, credentials: Credentials
) -> None:
    with pytest.raises(InvalidArgumentError, match="ADDRESS:PORT"):
        KeepClient.from_certificate(endpoint, keep_pair.certificate, credentials=credentials)


def test_an_ipv6_endpoint_is_fine(keep_pair: Pair, credentials: Credentials) -> None:
    KeepClient.from_certificate("[::1]:4433", keep_pair.certificate, credentials=credentials).close()


def test_a_file_that_becomes_shorter_while_it_is_sent_is_named(start_keep: StartKeep, tmp_path: Path) -> None:
    _, keep = start_keep(lambda _: json_reply(LOADED))
    (file := tmp_path / "a.wasm").write_bytes(WASM)

    def shorten(sent: int) -> None:
        file.write_bytes(WASM[:10])

    with pytest.raises(InvalidArgumentError, match=r"a\.wasm became shorter"):
        keep.load_workload(file, progress=shorten)


def test_a_closed_client_sends_nothing(start_keep: StartKeep) -> None:
    server, keep = start_keep(lambda _: json_reply(LOADED))
    keep.close()
    with pytest.raises(InvalidArgumentError, match="is closed"):
        keep.workload()
    assert server.received == []


def test_a_folder_is_no_upload(start_keep: StartKeep, tmp_path: Path) -> None:
    _, keep = start_keep(lambda _: Reply())
    with pytest.raises(InvalidArgumentError, match="is no file"):
        keep.load_workload(tmp_path)
