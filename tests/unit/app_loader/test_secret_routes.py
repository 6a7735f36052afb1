"""Secrets over real TLS: who may, on which connections, and what never shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from app_loader.dispatch import Dispatcher
from app_loader.keep import Keep
from app_loader.key_release.errors import KeyRefusedError
from app_loader.messages import Request, Response
from app_loader.secret_sources import SecretSources
from keep_protocol.evidence import EvidenceKind
from keep_protocol.secret_api import MAX_SECRET, SecretInfo, SecretList
from keep_protocol.secret_sources import KbsSource, SecretSource
from keep_protocol.states import KeepRole
from tests.unit.app_loader.asking import ask, problem, request
from tests.unit.app_loader.bare_keep import bare_keep
from tests.unit.app_loader.execution_harness import spec
from tests.unit.app_loader.pki import Credential, self_signed
from tests.unit.app_loader.serving import Serving, Wire

BYTES = "application/octet-stream"
CANARY = b"canary-77b0e1f2"


def keep_with(evidence: EvidenceKind | None = None) -> Keep:
    """A keep that holds secrets and does nothing else."""
    return bare_keep(msgspec.structs.replace(spec(), evidence=evidence))


@pytest.fixture
def owner() -> Credential:
    return self_signed()


@pytest.fixture
def wire(tmp_path: Path, owner: Credential) -> Iterator[Wire]:
    with Serving(tmp_path, [owner.pinned(KeepRole.OWNER)], Dispatcher(keep_with())) as server:
        yield server.connect(owner)


def test_a_secret_is_stored_listed_replaced_and_removed_and_never_comes_back(wire: Wire) -> None:
    stored = wire.ask("PUT", "/v1/secrets/db-password", CANARY, content_type=BYTES)
    assert stored.status == 201
    assert msgspec.json.decode(stored.body, type=SecretInfo).size == len(CANARY)
    assert wire.ask("PUT", "/v1/secrets/db-password?ttl=60", CANARY, content_type=BYTES).status == 200
    listed = wire.ask("GET", "/v1/secrets")
    (info,) = msgspec.json.decode(listed.body, type=SecretList).secrets
    assert (info.name, info.size) == ("db-password", len(CANARY))
    assert info.expires_at is not None
    assert CANARY not in stored.body + listed.body
    assert wire.ask("GET", "/v1/secrets/db-password").status == 405
    assert wire.ask("DELETE", "/v1/secrets/db-password").status == 204
    assert wire.ask("DELETE", "/v1/secrets/db-password").problem.code == "secret-not-found"


@pytest.mark.parametrize("ttl", ["", "0", "-1", "1.5", "1h", "99999999", "１"])
def test_a_ttl_that_is_none_is_refused(ttl: str) -> None:
    response = ask(request("PUT", f"/v1/secrets/a?ttl={ttl}", CANARY, {"content-type": BYTES}), keep_with())
    assert (problem(response).code, problem(response).field) == ("field-invalid", "ttl")


def test_an_empty_secret_and_one_of_the_largest_size_are_kept_and_a_larger_one_refused(wire: Wire) -> None:
    assert wire.ask("PUT", "/v1/secrets/empty", b"", content_type=BYTES).status == 201
    assert wire.ask("PUT", "/v1/secrets/large", bytes(MAX_SECRET), content_type=BYTES).status == 201
    larger = bytes(MAX_SECRET + 1)
    assert wire.ask("PUT", "/v1/secrets/larger", larger, content_type=BYTES).problem.code == "body-too-large"


def test_a_chunked_secret_that_is_too_large_is_refused() -> None:
    chunks = [bytes(MAX_SECRET), b"x"]
    response = ask(request("PUT", "/v1/secrets/a", chunks, {"content-type": BYTES}), keep_with())
    assert problem(response).code == "body-too-large"


@pytest.mark.parametrize(("method", "target"), [("PUT", "/a"), ("DELETE", "/a"), ("GET", ""), ("PUT", "/%00")])
def test_a_keep_with_evidence_takes_no_secrets_before_it_has_proven_itself_on_this_connection(
    method: str, target: str
) -> None:
    keep = keep_with(EvidenceKind.SIMULATED)
    asked = request(method, f"/v1/secrets{target}", CANARY, {"content-type": BYTES})
    response = ask(asked, keep)
    assert (response.status, problem(response).code) == (403, "attestation-required")
    assert keep.secrets.list() == ()


def test_once_it_has_proven_itself_a_keep_with_evidence_takes_secrets_on_that_connection_only() -> None:
    keep = keep_with(EvidenceKind.SIMULATED)
    attested = request("PUT", "/v1/secrets/a", CANARY, {"content-type": BYTES})
    attested.session.attested = True
    assert ask(attested, keep).status == 201
    assert problem(ask(request("PUT", "/v1/secrets/a", b"x", {"content-type": BYTES}), keep)).code == (
        "attestation-required"
    )
    assert keep.secrets.get("a") == CANARY


def test_a_caller_does_not_choose_which_secrets_a_run_gets() -> None:
    body = b'{"secrets": [{"name": "db", "env": "DB"}]}'
    asked = request("POST", "/v1/runs", body, {"content-type": "application/json"}, roles=[KeepRole.CALLER])
    assert problem(ask(asked, keep_with())).code == "forbidden"


def test_neither_the_log_nor_an_error_says_a_value_or_a_name(
    tmp_path: Path, owner: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name = "name-of-a-secret"

    with Serving(tmp_path, [owner.pinned(KeepRole.OWNER)], Dispatcher(keep_with())) as server:
        wire = server.connect(owner)
        stored = wire.ask("PUT", f"/v1/secrets/{name}", CANARY, content_type=BYTES)
        refused = [
            wire.ask("PUT", f"/v1/secrets/{name}", CANARY, content_type="text/plain"),
            wire.ask("PUT", f"/v1/secrets/{name}?ttl=x", CANARY, content_type=BYTES),
            wire.ask("PUT", f"/v1/secrets/-{name}", CANARY, content_type=BYTES),
        ]
    assert stored.status == 201
    assert [answer.status for answer in refused] == [415, 422, 422]
    assert all(CANARY not in answer.body for answer in refused)
    assert CANARY.decode() not in caplog.text
    assert name not in caplog.text
    assert "PUT /v1/secrets/{secret}" in caplog.text


class TestFetched:
    """Secrets that the keep fetches for itself."""

    def keep(self, failure: Exception | None = None) -> Keep:
        """A keep that fetches the secret `key`, or is about to fail at it."""

        async def fetch(source: SecretSource) -> bytearray:
            if failure is not None:
                raise failure
            return bytearray(CANARY)

        keep = keep_with()
        source = KbsSource("key", "https://kbs.example", "default/key/1")
        keep.secret_sources = SecretSources((source,), keep.secrets, fetch, keep.events.record)
        return keep

    def ask_fetching(self, keep: Keep, *requests: Request) -> list[Response]:
        """Responses, once everything has been fetched that can be."""

        async def play() -> list[Response]:
            assert keep.secret_sources is not None
            keep.secret_sources.start()
            await keep.secret_sources.first_attempts(20.0)
            dispatcher = Dispatcher(keep)
            try:
                return [await dispatcher(asked) for asked in requests]
            finally:
                await keep.secret_sources.close()

        return asyncio.run(play())

    def test_the_list_tells_where_they_are_from_and_how_they_stand(self) -> None:
        (response,) = self.ask_fetching(self.keep(), request("GET", "/v1/secrets"))
        assert isinstance(response.body, bytes)
        listed = msgspec.json.decode(response.body, type=SecretList)
        assert [info.name for info in listed.secrets] == ["key"]
        assert [(info.name, info.kind, info.source, info.state) for info in listed.sources] == [
            ("key", "kbs", "https://kbs.example#default/key/1", "fetched")
        ]
        assert CANARY not in response.body

    def test_nobody_puts_or_deletes_them_by_hand(self) -> None:
        keep = self.keep()
        asked = (
            request("PUT", "/v1/secrets/key", b"mine", {"content-type": BYTES}),
            request("DELETE", "/v1/secrets/key"),
        )
        for response in self.ask_fetching(keep, *asked):
            assert (response.status, problem(response).code) == (409, "secret-unusable")
        assert keep.secrets.get("key") == CANARY

    def test_a_run_that_names_one_which_is_not_there_is_told_to_come_again(self) -> None:
        keep = self.keep(KeyRefusedError("the broker does not accept the keep's evidence"))
        body = b'{"secrets": [{"name": "key", "env": "KEY"}]}'
        (response,) = self.ask_fetching(keep, request("POST", "/v1/runs", body, {"content-type": "application/json"}))
        assert (response.status, problem(response).code) == (503, "secret-pending")
        assert "does not accept" in problem(response).detail
        assert response.headers["retry-after"] == "1"
