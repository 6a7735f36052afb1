"""What a client is told when something is not as it should be, and what the host's log says."""

from __future__ import annotations

import errno
import logging
import os
from http import HTTPStatus
from pathlib import Path

import pytest

from app_loader.keep import Keep
from app_loader.messages import Request, Response, json_response
from app_loader.principals import Principals
from app_loader.revocation import Revocations
from app_loader.route import Route
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import CrlPolicy, KeepRole
from tests.unit.app_loader.asking import GivenBody, ask, problem, request, session
from tests.unit.app_loader.pki import Authority

JSON = {"content-type": "application/json"}
ALICE = "spiffe://example.org/user/alice"


async def take_json(keep: Keep, request: Request) -> Response:
    request.query()
    return json_response(await request.json(RunRequest))


async def fail(keep: Keep, request: Request) -> Response:
    raise ValueError("the password is swordfish")


async def fill_disk(keep: Keep, request: Request) -> Response:
    raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/secret")


async def break_disk(keep: Keep, request: Request) -> Response:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/var/lib/secret")


async def refuse(keep: Keep, request: Request) -> Response:
    raise RefusalError(ErrorCode.WORKLOAD_EMPTY, "nothing is loaded", remedy="load something")


async def refuse_for_now(keep: Keep, request: Request) -> Response:
    raise RefusalError(ErrorCode.TOO_MANY_REQUESTS, "64 calls are waiting")


OWNER = frozenset({KeepRole.OWNER})
ROUTES = (
    Route("POST", "/json", OWNER, take_json, "", answers={}),
    Route("GET", "/fail", OWNER, fail, "", answers={}),
    Route("GET", "/full", OWNER, fill_disk, "", answers={}),
    Route("GET", "/broken", OWNER, break_disk, "", answers={}),
    Route("GET", "/refuse", OWNER, refuse, "", answers={}),
    Route("DELETE", "/refuse", OWNER, refuse, "", answers={}),
    Route("GET", "/later", OWNER, refuse_for_now, "", answers={}),
)


def answer(method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
    return ask(request(method, target, body, headers), routes=ROUTES)


def test_who_asks_too_much_is_told_when_to_ask_again() -> None:
    response = answer("GET", "/later")
    assert (response.status, response.headers["retry-after"]) == (429, "1")


def test_a_refusal_becomes_a_problem_with_its_code_and_remedy() -> None:
    response = answer("GET", "/refuse")
    refusal = problem(response)
    assert response.status is HTTPStatus.CONFLICT
    assert (refusal.code, refusal.detail, refusal.remedy) == ("workload-empty", "nothing is loaded", "load something")


def test_a_failure_tells_the_client_nothing_and_the_log_everything(caplog: pytest.LogCaptureFixture) -> None:
    response = answer("GET", "/fail")
    assert problem(response).code == "internal"
    assert isinstance(response.body, bytes)
    assert b"swordfish" not in response.body
    assert "swordfish" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(("path", "code"), [("/full", "disk-full"), ("/broken", "disk-failed")])
def test_a_disk_that_takes_nothing_is_said_without_naming_paths(path: str, code: str) -> None:
    response = answer("GET", path)
    assert (response.status, problem(response).code) == (507, code)
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "get", "BREW"])
def test_another_method_gets_those_that_are_allowed(method: str) -> None:
    response = answer(method, "/refuse")
    assert (response.status, response.headers["allow"]) == (405, "DELETE, GET")


@pytest.mark.parametrize("query", ["x=1", "offset=1&offset=2", "=", "&&a"])
def test_unknown_query_parameters_are_refused(query: str) -> None:
    assert problem(answer("POST", f"/json?{query}", b"{}", JSON)).code == "field-invalid"


@pytest.mark.parametrize("target", ["/json?%zz=1", "/json?x%", "/%zz"])
def test_a_malformed_escape_is_refused(target: str) -> None:
    route = Route("POST", "/{any}", OWNER, take_json, "", answers={})
    assert problem(ask(request("POST", target, b"{}", JSON), routes=[route])).code == "bad-request"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"args": [1]}', "$.args[0]"),
        (b'{"memory": 1}', "$.memory"),
        (b'{"mounts": [{"guest": "/x"}]}', "$.mounts[0]"),
        (b'{"unknown": 1}', "$"),
        (b"[]", "$"),
        (b'{"timeout": "1"}', "$.timeout"),
    ],
)
def test_an_invalid_field_is_named(body: bytes, field: str) -> None:
    response = answer("POST", "/json", body, JSON)
    assert (response.status, problem(response).code, problem(response).field) == (422, "field-invalid", field)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"args": ["\xff"]}', b"[" * 100_000, b"{} {}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert problem(answer("POST", "/json", body, JSON)).code in {"bad-request", "field-invalid"}


def test_json_must_be_said_to_be_json() -> None:
    assert problem(answer("POST", "/json", b"{}")).code == "media-type-unsupported"
    assert answer("POST", "/json", b"{}", {"content-type": "Application/JSON; charset=utf-8"}).status == 200


def test_a_json_body_has_a_limit() -> None:
    assert problem(answer("POST", "/json", bytes(1024 * 1024 + 1), JSON)).code == "body-too-large"
    chunked = request("POST", "/json", [bytes(1024 * 1024), b"x"], JSON)
    assert problem(ask(chunked, routes=ROUTES)).code == "body-too-large"


def test_a_revoked_client_is_told_so_whatever_it_asks_and_closed(tmp_path: Path) -> None:
    authority = Authority()
    alice = authority.issue(ALICE)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(authority.revocations())
    principals = Principals([authority.names(ALICE, crl=CrlPolicy.REQUIRED)], Revocations(crl))
    client = principals.identify(alice.der, {"subjectAltName": (("URI", ALICE),)})

    def ask_as_alice(target: bytes) -> Response:
        return ask(Request("GET", target, {}, GivenBody([], 0), client, session()), routes=ROUTES)

    assert problem(ask_as_alice(b"/refuse")).code == "workload-empty"
    crl.write_bytes(authority.revocations([alice]))
    for target in (b"/refuse", b"/nowhere"):
        response = ask_as_alice(target)
        assert (problem(response).code, response.headers["connection"]) == ("certificate-revoked", "close")
    crl.unlink()
    assert problem(ask_as_alice(b"/refuse")).code == "crl-unusable"


def test_the_log_says_who_did_what_but_not_with_which_file(caplog: pytest.LogCaptureFixture) -> None:
    route = Route("PUT", "/files/{name}", OWNER, refuse, "", answers={})
    with caplog.at_level(logging.INFO):
        ask(request("PUT", "/files/diagnosis.pdf"), routes=[route])
    assert "PUT /files/{name} by sha256:" in caplog.text
    assert "diagnosis" not in caplog.text
