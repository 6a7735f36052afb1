"""Commands that answer HTTP requests: what they see, what they say, and how they fail, in a whole keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.app_loader.execution_harness import GUESTS, REPOSITORY
from tests.unit.app_loader.http_keep import PROBE, HttpKeep, http_keep

CGI = REPOSITORY / "examples" / "cgi" / "cgi.wasm"


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpKeep]:
    folder = tmp_path_factory.mktemp("k")
    with http_keep(folder, GUESTS / "wagi.wasm", http={"wagi": True}, run_time=20, runs=2, memory=64 * 2**20) as keep:
        yield keep


def seen(keep: HttpKeep, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> list[str]:
    return keep.ask(path, method, body, **headers).body.decode().splitlines()


def test_it_sees_the_request_as_variables(keep: HttpKeep) -> None:
    lines = seen(keep, "/seen?a=1&b=%20", "POST", b"12345", content_type="text/x", x_mine="yes")
    for line in (
        "arg /v1/http",
        "arg a=1",
        "arg b=%20",
        "env GATEWAY_INTERFACE=CGI/1.1",
        "env SERVER_PROTOCOL=HTTP/1.1",
        "env REQUEST_METHOD=POST",
        "env SCRIPT_NAME=/v1/http",
        "env PATH_INFO=/seen",
        "env QUERY_STRING=a=1&b=%20",
        "env CONTENT_LENGTH=5",
        "env CONTENT_TYPE=text/x",
        "env HTTP_X_MINE=yes",
        "env HTTP_HOST=keep",
        "env SERVER_NAME=keep",
        "env SERVER_PORT=443",
        "env REMOTE_ADDR=127.0.0.1",
        "env HTTPS=on",
        "env X_FULL_URL=https://keep/v1/http/seen?a=1&b=%20",
    ):
        assert line in lines
    (user,) = (line for line in lines if line.startswith("env REMOTE_USER="))
    assert user.startswith("env REMOTE_USER=sha256:")


def test_headers_that_mislead_programs_are_no_variables(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(
        b"GET /v1/http/seen HTTP/1.1\r\nhost: keep\r\nproxy: http://evil\r\nauthorization: secret\r\nx_mine: no\r\n"
        b"connection: close, x-hop\r\nx-hop: 1\r\n\r\n"
    )
    lines = wire.answer().body.decode()
    for name in ("HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_X_MINE", "HTTP_X_HOP", "HTTP_CONNECTION"):
        assert name not in lines
    assert "CONTENT_LENGTH" not in lines


def test_the_path_is_decoded_and_comes_raw_too(keep: HttpKeep) -> None:
    # Only the guest's own path is decoded, so the program answers with nothing, and says so.
    assert keep.ask("/se%65n").status == 200
    assert "env X_RAW_PATH_INFO=/se%65n" in seen(keep, "/se%65n")
    refused = keep.ask("/a%00b")
    assert (refused.status, refused.problem.code) == (400, "bad-request")
    assert keep.ask("/a%ffb").status == 400


def test_arguments_and_variables_of_the_configuration_come_first_and_those_of_the_request_win(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", GUESTS / "wagi.wasm") as keep:
        document = {"args": ["one"], "env": {"COLOUR": "blue", "REMOTE_USER": "root"}, "http": {"wagi": True}}
        assert keep.configure(document).status == 200
        lines = seen(keep, "/seen?x")
        assert "arg one" in lines
        assert "arg x" not in lines
        assert "env COLOUR=blue" in lines
        assert "env REMOTE_USER=root" not in lines


def test_a_body_of_any_size_streams_through(keep: HttpKeep) -> None:
    body = bytes(range(256)) * 20_000
    answer = keep.ask("/echo", "POST", body)
    assert answer.body == body
    assert answer.headers["x-mine"] == "1"
    assert keep.ask("/echo", "POST", b"").body == b""
    wire = keep.connect()
    wire.send(b"POST /v1/http/echo HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert wire.answer().body == b"abc"


def test_a_body_that_is_not_read_does_not_matter(keep: HttpKeep) -> None:
    wire = keep.connect()
    for _ in range(3):
        assert wire.ask("POST", "/v1/http/ignore", b"x" * 60_000).body == b"not read\n"


def test_status_location_and_headers_are_the_commands(keep: HttpKeep) -> None:
    answer = keep.ask("/stdin", "POST", b"Status: 404 Not Here\nContent-Type: text/plain\n\ngone")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (404, b"gone", "text/plain")
    assert "wasmkeep-problem" not in answer.headers
    answer = keep.ask("/stdin", "POST", b"Location: https://example.org/elsewhere\n\n")
    assert (answer.status, answer.headers["location"]) == (302, "https://example.org/elsewhere")
    answer = keep.ask("/stdin", "POST", b"Status: 303 See Other\nLocation: /v1/http/elsewhere\n\n")
    assert (answer.status, answer.headers["location"]) == (303, "/v1/http/elsewhere")
    answer = keep.ask("/stdin", "POST", b"Content-Type: a/b\r\nContent-Length: 2\r\n\r\nok")
    assert (answer.body, answer.headers["content-length"]) == (b"ok", "2")
    # Those of one connection are refused by name, as a component's are.
    assert "cannot be sent" in keep.ask("/stdin", "POST", b"Content-Type: a/b\nConnection: close\n\n").problem.detail


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"", "without a header block"),
        (b"Content-Type: text/plain\n", "without a header block"),
        (b"no header at all\n\n", "without a colon"),
        (b"X-Mine: 1\n\nbody", "none of"),
        (b"Status: 99\n\n", "`Status`"),
        (b"Status: 101 Switching\n\n", "`Status`"),
        (b"Status: 200\nStatus: 200\n\n", "twice"),
        (b"Location: /v1/status\n\n", "a local redirect, which is not done: add `Status: 302 Found`"),
        (b"Content-Type: a/b\nLocation: //example.org/\n\n", "a local redirect"),
        (b"Content-Type : a/b\n\n", "cannot be sent"),
        (b"Content-Type: a/b\n folded\n\n", "without a colon"),
        (b"Content-Type: a/b\nX: a\x00b\n\n", "cannot be sent"),
        (b"Content-Type: a/b\nContent-Length: -1\n\n", "`Content-Length`"),
        (b"Content-Type: a/b\nContent-Length: 5\n\nabc", "promises 2 bytes more"),
        (b"Content-Type: a/b\nContent-Length: 1\n\nabc", "more than its"),
    ],
)
def test_what_is_no_answer_is_a_problem(keep: HttpKeep, written: bytes, reason: str) -> None:
    refused = keep.ask("/stdin", "POST", written)
    assert (refused.status, refused.problem.code) == (502, "http-unanswered")
    assert reason in refused.problem.detail


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 502, "http-unanswered"),
        ("/drip", 502, "http-unanswered"),
        ("/trap", 502, "http-trapped"),
        ("/memory", 507, "http-memory"),
    ],
)
def test_a_command_that_fails_costs_only_its_request(keep: HttpKeep, path: str, status: int, code: str) -> None:
    failed = keep.ask(path)
    assert (failed.status, failed.problem.code) == (status, code)
    assert keep.ask("/ignore").status == 200


def test_an_exit_code_is_a_failure_whatever_was_written(keep: HttpKeep) -> None:
    failed = keep.ask("/stdin?fail", "POST", b"Content-Type: text/plain\n\nfine so far")
    assert (failed.status, failed.problem.code) == (502, "http-exited")
    assert "code 3" in failed.problem.detail


def test_a_long_response_whose_command_fails_breaks_off(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"GET /v1/http/late HTTP/1.1\r\nhost: keep\r\n\r\n")
    with pytest.raises((EOFError, ValueError, OSError)):
        wire.answer()


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", GUESTS / "wagi.wasm", http={"wagi": True}, run_time=1) as keep:
        failed = keep.ask("/spin")
        assert (failed.status, failed.problem.code) == (504, "http-timeout")
        assert keep.ask("/ignore").status == 200


def test_a_client_that_does_not_read_holds_the_command_back_and_others_are_served(keep: HttpKeep) -> None:
    wire = keep.connect()
    wire.send(b"GET /v1/http/flood HTTP/1.1\r\nhost: keep\r\n\r\n")
    assert wire.head() == 200
    assert [keep.ask("/ignore").status for _ in range(5)] == [200] * 5
    wire.close()
    # Its place is free again: there are two, and this needs both.
    assert len(keep.ask("/big").body) == 4 << 20


def test_head_has_no_body(keep: HttpKeep) -> None:
    answer = keep.ask("/ignore", "HEAD")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")


def test_what_a_command_prints_is_the_owners_to_read(keep: HttpKeep) -> None:
    keep.ask("/print")
    owner = keep.connect(keep.owner)
    log = owner.ask("GET", "/v1/http-log")
    assert b"complaint\n" in log.body
    end = int(log.headers["wasmkeep-offset"]) + len(log.body)
    assert owner.ask("GET", f"/v1/http-log?offset={end}").body == b""
    assert keep.connect(keep.caller).ask("GET", "/v1/http-log").status == 403


def test_what_cannot_be_a_command_is_refused_where_it_is_said(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", PROBE) as keep:
        refused = keep.configure({"http": {"wagi": True}})
        assert (refused.status, refused.problem.code, refused.problem.field) == (
            422,
            "configuration-refused",
            "$.http.wagi",
        )
        owner = keep.connect(keep.owner)
        load = ("PUT", "/v1/workload")
        command = (GUESTS / "wagi.wasm").read_bytes()
        assert owner.ask(*load, command, content_type="application/wasm").status == 200
        assert keep.ask("/ignore").problem.code == "workload-not-http"
        assert keep.configure({"http": {"wagi": True}}).status == 200
        assert keep.ask("/ignore").status == 200
        refused = owner.ask(*load, PROBE.read_bytes(), content_type="application/wasm")
        assert (refused.status, refused.problem.code) == (422, "configuration-refused")
        # The one before is still there.
        assert keep.ask("/ignore").status == 200


def test_the_example_answers(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", CGI, http={"wagi": True}) as keep:
        assert keep.ask("/").body.startswith(b"Hello from a command, sha256:")
        assert keep.ask("/echo", "PUT", b"same").body == b"same"
        missing = keep.ask("/other")
        assert (missing.status, missing.body) == (404, b"There is nothing at /other.\n")


def test_commands_for_wasi_0_2_answer_too(tmp_path: Path) -> None:
    shout = REPOSITORY / "examples" / "shout" / "shout.wasm"
    with http_keep(tmp_path / "keep", shout, http={"wagi": True}) as keep:
        answer = keep.ask("/", "POST", b"content-type: text/plain\n\nloud")
        assert (answer.body, answer.headers["content-type"]) == (b"LOUD", "TEXT/PLAIN")
        assert b"characters" in keep.connect(keep.owner).ask("GET", "/v1/http-log").body
