"""Keys from a broker that speaks Trustee's protocol, over real HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.key_release.errors import KeyRefusedError, KeyServiceError, MalformedReplyError
from keep_attestation.key_release.kbs import KeyBrokerSession, SessionKey, public_jwk
from keep_protocol.key_broker import Tee, binding
from tests.unit.keep_attestation.key_release.broker import FakeBroker
from tests.unit.keep_attestation.key_release.http_server import Request, Response, serve


def attester(report_data: bytes) -> dict[str, str]:
    assert len(report_data) == 64
    return {"report_data": report_data.hex()}


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def url(broker: FakeBroker) -> Iterator[str]:
    with serve(broker) as address:
        yield address


def session(url: str, **options: Any) -> KeyBrokerSession:
    return KeyBrokerSession(
        url,
        options.pop("tee", Tee.SNP),
        options.pop("attester", attester),
        **{"allow_plain_http": True, "timeout": 5.0, **options},
    )


@pytest.mark.parametrize("key", list(SessionKey))
def test_a_resource_is_fetched_after_attestation(broker: FakeBroker, url: str, key: SessionKey) -> None:
    with session(url, key=key) as broker_session:
        assert broker_session.fetch("default", "key", "1") == b"the secret key"
    paths = [(request.method, request.path) for request in broker.requests]
    assert paths == [
        ("POST", "/kbs/v0/auth"),
        ("POST", "/kbs/v0/attest"),
        ("GET", "/kbs/v0/resource/default/key/1"),
    ]


def test_one_attestation_serves_several_resources(broker: FakeBroker, url: str) -> None:
    broker.resources["default/key/2"] = b"another"
    with session(url) as broker_session:
        assert broker_session.attest() == "header.payload.signature"
        assert broker_session.fetch("default", "key", "1") == b"the secret key"
        assert broker_session.fetch("default", "key", "2") == b"another"
    assert [request.path for request in broker.requests].count("/kbs/v0/attest") == 1


def test_an_ended_session_is_begun_anew_once(broker: FakeBroker, url: str) -> None:
    with session(url) as broker_session:
        broker_session.fetch("default", "key", "1")
        broker.sessions.clear()
        assert broker_session.fetch("default", "key", "1") == b"the secret key"
    assert [request.path for request in broker.requests].count("/kbs/v0/attest") == 2


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_evidence_is_bound_by_the_hash_that_the_broker_selects(broker: FakeBroker, url: str, algorithm: str) -> None:
    broker.algorithm = algorithm
    with session(url) as broker_session:
        assert broker_session.fetch("default", "key", "1") == b"the secret key"


def test_the_binding_is_sha384_over_canonical_json_and_zeros() -> None:
    key = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "AA", "y": "BB"}
    canonical = (
        b'{"additional-evidence":"","nonce":"bm9uY2U=",'
        b'"tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"AA","y":"BB"}}'
    )
    bound = binding(key, "bm9uY2U=", "")
    assert bound == hashlib.sha384(canonical).digest()
    # RFC 8785, 3.2.2.2: short escapes, nothing else is escaped.
    assert (
        binding({}, '\n\u001f"\\/ä€', "")[:48]
        == hashlib.sha384('{"additional-evidence":"","nonce":"\\n\\u001f\\"\\\\/ä€","tee-pubkey":{}}'.encode()).digest()
    )


def test_an_attester_that_does_not_bind_the_key_is_refused(url: str) -> None:
    with (
        session(url, attester=lambda data: {"report_data": data[:32].hex()}) as broker_session,
        pytest.raises(KeyRefusedError, match="does not accept the evidence") as refusal,
    ):
        broker_session.fetch("default", "key", "1")
    assert refusal.value.status == 401


def test_a_resource_that_does_not_exist_is_named(url: str) -> None:
    with session(url) as broker_session, pytest.raises(KeyRefusedError, match="default/key/9") as refusal:
        broker_session.fetch("default", "key", "9")
    assert refusal.value.status == 404


def test_sample_evidence_is_refused_unless_told_otherwise(broker: FakeBroker, url: str) -> None:
    # Row 30.
    with pytest.raises(ValueError, match="development"):
        session(url, tee=Tee.SAMPLE)
    assert broker.requests == []
    with session(url, tee=Tee.SAMPLE, allow_sample=True) as broker_session:
        assert broker_session.fetch("default", "key", "1") == b"the secret key"


@pytest.mark.parametrize("address", ["http://broker", "ftp://broker", "broker", ""])
def test_a_broker_is_reached_by_https_alone(address: str) -> None:
    with pytest.raises(ValueError, match="https"):
        KeyBrokerSession(address, Tee.SNP, attester)


@pytest.mark.parametrize("segment", ["", "..", ".", "a/b", "a b", "a?b", "ä", "a" * 129, "%2e"])
def test_names_that_would_change_the_path_are_refused(broker: FakeBroker, url: str, segment: str) -> None:
    with session(url) as broker_session, pytest.raises(ValueError, match="no part of a resource"):
        broker_session.fetch("default", segment, "1")
    assert broker.requests == []


def test_a_challenge_without_a_session_is_refused(broker: FakeBroker, url: str) -> None:
    broker.cookies = False
    with session(url) as broker_session, pytest.raises(MalformedReplyError, match="kbs-session-id"):
        broker_session.attest()


def test_a_second_attestation_does_not_go_on_with_the_old_session(broker: FakeBroker, url: str) -> None:
    with session(url) as broker_session:
        broker_session.attest()
        broker.cookies = False
        with pytest.raises(MalformedReplyError, match="kbs-session-id"):
            broker_session.attest()


def test_every_session_has_a_key_of_its_own(broker: FakeBroker, url: str) -> None:
    for _ in range(2):
        with session(url) as broker_session:
            broker_session.attest()
    keys = [json.loads(request.body)["runtime-data"]["tee-pubkey"]["x"] for request in broker.requests[1::2]]
    assert len(set(keys)) == 2


def answering(**replies: Response) -> Callable[[Request], Response]:
    good = FakeBroker()

    def answer(request: Request) -> Response:
        return replies.get(request.path.removeprefix("/kbs/v0/").partition("/")[0]) or good(request)

    return answer


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ({"auth": Response(200, b"")}, MalformedReplyError),
        ({"auth": Response(200, b"[]")}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": 1}')}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": "\xff"}')}, MalformedReplyError),
        (
            {
                "auth": Response(
                    200,
                    b'{"nonce": "n", "extra-params": {"selected-hash-algorithm": "md5"}}',
                    {"Set-Cookie": "kbs-session-id=1"},
                )
            },
            MalformedReplyError,
        ),
        ({"auth": Response(302, b"", {"Location": "http://127.0.0.1:1/"})}, KeyServiceError),
        ({"auth": Response(500, b"the secret key")}, KeyServiceError),
        ({"auth": Response(200, bytes(1024 * 1024 + 1))}, KeyServiceError),
        ({"attest": Response(200, b"{}")}, MalformedReplyError),
        ({"resource": Response(200, b"the secret key")}, MalformedReplyError),
        ({"resource": Response(200, b"[" * 100_000)}, MalformedReplyError),
        ({"resource": Response(403)}, KeyRefusedError),
    ],
)
def test_replies_that_are_not_of_the_protocol_raise_our_own_errors(
    replies: dict[str, Response], error: type[Exception]
) -> None:
    with serve(answering(**replies)) as url, session(url) as broker_session, pytest.raises(error) as caught:
        broker_session.fetch("default", "key", "1")
    assert "secret key" not in str(caught.value)


def test_a_reply_encrypted_to_another_key_is_refused(broker: FakeBroker, url: str) -> None:
    with session(url) as broker_session:
        broker_session.attest()
        (theirs,) = broker.sessions.values()
        theirs["key"] = public_jwk(ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
            broker_session.fetch("default", "key", "1")


def test_a_broker_that_is_not_there_is_a_failure_of_the_service() -> None:
    with session("http://127.0.0.1:1") as broker_session, pytest.raises(KeyServiceError, match=r"127\.0\.0\.1:1"):
        broker_session.attest()
