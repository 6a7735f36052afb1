"""Secrets and sealing by the SDK: what is sent, what is believed."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode

import pytest

from keep_client import AsyncKeepClient, Credentials, InvalidArgumentError, ProtocolError
from keep_protocol.sealing_api import CounterSource, KeyKind, Sealed, SealedHeader, SealingKey, Selector, Unsealed
from keep_protocol.secret_api import SecretInfo, SecretList
from tests.unit.keep_client.certificates import Pair
from tests.unit.keep_client.conftest import StartKeep
from tests.unit.keep_client.servers import Received, Reply, json_reply

INFO = SecretInfo("db/password", 5, "2026-01-01T00:00:00.000Z", "2026-01-01T01:00:00.000Z")
KEY = SealingKey("0" * 32, KeyKind.HOST, (Selector.KEEP,))
HEADER = SealedHeader(1, KEY, "state", 7, "2026-01-01T00:00:00.000Z")


def respond(request: Received) -> Reply:
    if request.path == "/v1/seal":
        return json_reply(Sealed(b64encode(b"envelope").decode(), KEY, 12, CounterSource.TPM))
    if request.path == "/v1/unseal":
        return json_reply(Unsealed(b64encode(b"data").decode(), HEADER, True))
    if request.method == "DELETE":
        return Reply(204)
    return json_reply(SecretList((INFO,)) if request.method == "GET" else INFO)


def test_a_secret_is_the_body_and_only_its_name_is_in_the_target(start_keep: StartKeep) -> None:
    server, keep = start_keep(respond)
    assert keep.put_secret("db/password", b"\0\xff\n", ttl=3600) == INFO
    keep.put_secret("forever", b"")
    assert keep.list_secrets().secrets == (INFO,)
    keep.delete_secret("db/password")
    put, forever, listed, deleted = server.received
    assert (put.method, put.path, put.body) == ("PUT", "/v1/secrets/db%2Fpassword", b"\0\xff\n")
    assert put.query == {"ttl": "3600"}
    assert put.headers["content-type"] == "application/octet-stream"
    assert (forever.path, forever.query, forever.body) == ("/v1/secrets/forever", {}, b"")
    assert (listed.method, listed.path) == ("GET", "/v1/secrets")
    assert (deleted.method, deleted.path) == ("DELETE", "/v1/secrets/db%2Fpassword")


def test_a_secret_without_a_name_is_never_sent(start_keep: StartKeep) -> None:
    server, keep = start_keep(respond)
    with pytest.raises(InvalidArgumentError):
        keep.put_secret("..", b"value")
    assert server.received == []


def test_data_is_sealed_and_unsealed_as_bytes(start_keep: StartKeep) -> None:
    server, keep = start_keep(respond)
    sealed = keep.seal(b"data", purpose="state", bind=[Selector.KEEP], counter=7)
    assert (sealed.envelope, sealed.key) == (b"envelope", KEY)
    assert (sealed.counter, sealed.counted_by) == (12, CounterSource.TPM)
    opened = keep.unseal(sealed.envelope, purpose="state", expected_counter=7)
    assert (opened.data, opened.header, opened.rollback_protected) == (b"data", HEADER, True)
    first, second = (json.loads(request.body) for request in server.received)
    assert (b64decode(first["data"]), first["bind"], first["counter"]) == (b"data", ["keep"], 7)
    assert (b64decode(second["sealed"]), second["expected_counter"]) == (b"envelope", 7)
    assert second["allow_rollback"] is False


def test_an_answer_that_is_no_base64_is_not_believed(start_keep: StartKeep) -> None:
    _, keep = start_keep(lambda _: json_reply(Unsealed("A", HEADER, True)))
    with pytest.raises(ProtocolError, match="base64"):
        keep.unseal(b"envelope", allow_rollback=True)


def test_the_async_twin_sends_the_same_requests(
    start_keep: StartKeep, keep_pair: Pair, credentials: Credentials
) -> None:
    server, keep = start_keep(respond)
    keep.put_secret("name", b"value", 60)
    keep.list_secrets()
    keep.delete_secret("name")
    keep.seal(b"data", purpose="p")
    keep.unseal(b"envelope", allow_rollback=True)

    async def twin() -> None:
        client = AsyncKeepClient.from_certificate(server.endpoint, keep_pair.certificate, credentials=credentials)
        async with client as twin:
            await twin.put_secret("name", b"value", 60)
            await twin.list_secrets()
            await twin.delete_secret("name")
            await twin.seal(b"data", purpose="p")
            await twin.unseal(b"envelope", allow_rollback=True)

    asyncio.run(twin())
    assert server.received[:5] == server.received[5:]
