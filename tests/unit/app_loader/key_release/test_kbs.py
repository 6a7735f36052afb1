"""Secrets from a key broker, over real TLS, with evidence that the broker verifies."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app_loader.attesters.interface import Attestation, Attester, Statement
from app_loader.attesters.selection import SimulatedAttester, TpmQuoter
from app_loader.attesters.tpm import TpmAttester
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.errors import AttesterError
from app_loader.key_release.errors import KeyRefusedError, KeyReleaseError, KeyServiceError, MalformedReplyError
from app_loader.key_release.kbs import fetch_from_broker
from app_loader.key_release.proof import BoundStatement, Proof
from app_loader.key_release.recipient_keys import new_recipient
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.tpm.policy import TpmPolicy
from keep_protocol.secret_sources import BrokerKey, KbsSource
from keep_protocol.spec import canonical
from tests.swtpm import running_swtpm
from tests.unit.app_loader.attesting import attested_spec, evidence_maker
from tests.unit.app_loader.key_release.services import BROKER, LoopbackConnector, ServiceAuthority
from tests.unit.app_loader.key_release.verifying_broker import VerifyingBroker, this_code
from tests.unit.app_loader.pki import self_signed
from tests.unit.keep_attestation.key_release.http_server import Request, Response, serve

SECRET = b"the secret key"
PATIENCE = 20.0
SPEC = attested_spec([self_signed().pinned()])
SPEC_SHA256 = hashlib.sha256(canonical(SPEC)).digest()
AUTHORITY = ServiceAuthority()

Answer = Callable[[Request], Response]


def proof_of(attester: Attester | None = None) -> Proof:
    """The proof of a keep with `SPEC`."""
    maker = evidence_maker(SPEC, attester=attester or SimulatedAttester())
    return Proof(maker.attester, lambda: maker.claims(b"spki"), asyncio.Lock())


def fetch(url: str, /, proof: Proof | None = None, **changes: Any) -> bytearray:
    source = KbsSource("key", f"https://{BROKER}", "default/key/1", roots=AUTHORITY.roots)
    changed = msgspec.structs.replace(source, **changes)
    return asyncio.run(_fetch(changed, proof or proof_of(), LoopbackConnector({BROKER: url})))


async def _fetch(source: KbsSource, proof: Proof, connector: LoopbackConnector) -> bytearray:
    async with asyncio.timeout(PATIENCE):
        return await fetch_from_broker(source, proof, connector)


@pytest.fixture
def broker() -> VerifyingBroker:
    return VerifyingBroker(this_code(), SPEC_SHA256)


@pytest.fixture
def serving(tmp_path: Path) -> Callable[[Answer], contextlib.AbstractContextManager[str]]:
    return lambda answer: serve(answer, AUTHORITY.tls(tmp_path, BROKER))


@pytest.fixture
def url(broker: VerifyingBroker, serving: Callable[[Answer], contextlib.AbstractContextManager[str]]) -> Iterator[str]:
    with serving(broker) as address:
        yield address


@pytest.mark.parametrize("key", BrokerKey)
@pytest.mark.parametrize("algorithm", [None, "sha256", "sha384", "sha512"])
def test_a_secret_is_given_to_evidence_that_is_verified(
    broker: VerifyingBroker, url: str, key: BrokerKey, algorithm: str | None
) -> None:
    broker.algorithm = algorithm
    assert fetch(url, key=key) == SECRET
    paths = [(request.method, request.path) for request in broker.requests]
    assert paths == [
        ("POST", "/kbs/v0/auth"),
        ("POST", "/kbs/v0/attest"),
        ("GET", "/kbs/v0/resource/default/key/1"),
    ]
    assert json.loads(broker.requests[0].body)["tee"] == "sample"


def test_a_broker_behind_a_path_is_asked_there(broker: VerifyingBroker, url: str) -> None:
    with pytest.raises(KeyServiceError, match="HTTP 405"):
        fetch(url, url=f"https://{BROKER}/prefix/")
    assert broker.requests[0].path == "/prefix/kbs/v0/auth"


def test_every_fetch_has_a_key_and_a_session_of_its_own(broker: VerifyingBroker, url: str) -> None:
    for _ in range(2):
        fetch(url)
    keys = [json.loads(request.body)["runtime-data"]["tee-pubkey"]["x"] for request in broker.requests[1::3]]
    assert len(set(keys)) == len(broker.sessions) == 2


def test_a_keep_of_another_spec_gets_nothing(broker: VerifyingBroker, url: str) -> None:
    broker.spec_sha256 = bytes(32)
    with pytest.raises(KeyRefusedError, match="does not accept the keep's evidence"):
        fetch(url)
    assert broker.refused == ["another spec"]


def test_a_production_broker_refuses_simulated_evidence(broker: VerifyingBroker, url: str) -> None:
    # Row 30.
    broker.policy = Policy(name="production", tpm=(TpmPolicy(),))
    with pytest.raises(KeyRefusedError):
        fetch(url)
    assert "simulated" in broker.refused[0]


def test_claims_can_be_left_out_for_brokers_that_know_none(broker: VerifyingBroker, url: str) -> None:
    broker.spec_sha256 = None
    with pytest.raises(KeyRefusedError):
        fetch(url)
    assert fetch(url, claims=False) == SECRET


class _Replaying(SimulatedAttester):
    """Evidence for another digest than the one that was asked for: as if the host had recorded it."""

    def attest(self, statement: Statement) -> Attestation:
        return super().attest(Statement(b"another", b"", None))


def test_evidence_that_is_bound_to_something_else_is_refused(broker: VerifyingBroker, url: str) -> None:
    with pytest.raises(KeyRefusedError):
        fetch(url, proof_of(_Replaying()))
    assert "report data is" in broker.refused[0]


class _Broken(SimulatedAttester):
    def attest(self, statement: Statement) -> Attestation:
        raise AttesterError("the device is gone")


def test_hardware_that_fails_is_named(url: str) -> None:
    with pytest.raises(KeyReleaseError, match="cannot prove itself: the device is gone"):
        fetch(url, proof_of(_Broken()))


def test_hardware_that_is_at_work_for_a_fetch_that_was_given_up_is_not_asked_again_meanwhile() -> None:
    at_work, done = threading.Event(), threading.Event()

    class Slow(SimulatedAttester):
        def attest(self, statement: Statement) -> Attestation:
            at_work.set()
            done.wait(PATIENCE)
            raise AttesterError("and it fails")

    async def play() -> None:
        proof = proof_of(Slow())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0):
                await proof.attest(BoundStatement.over(b""))
        assert await asyncio.to_thread(at_work.wait, PATIENCE)
        assert proof.one_at_a_time.locked()
        done.set()
        async with asyncio.timeout(PATIENCE), proof.one_at_a_time:
            pass

    asyncio.run(play())


def test_a_keep_with_a_tpm_gets_its_secret_by_a_quote(broker: VerifyingBroker, url: str) -> None:
    with running_swtpm() as path:
        transport = SocketTransport(str(path))
        name = TpmAttester(transport).ak_name.hex()
        transport.close()
        with socket.socket(socket.AF_UNIX) as tpm:
            tpm.connect(str(path))
            proof = proof_of(TpmQuoter(tpm.fileno()))
            broker.policy = pinning(name)
            assert fetch(url, proof) == SECRET
            broker.policy = pinning("000b" + "00" * 32)
            with pytest.raises(KeyRefusedError):
                fetch(url, proof)
    assert json.loads(broker.requests[0].body)["tee"] == "tpm"
    assert "is not pinned" in broker.refused[0]


def pinning(name: str) -> Policy:
    """Accepts quotes of a fresh software TPM by this key."""
    pcrs = f'[tpm.pcrs.sha256]\n7 = ["{"00" * 32}"]\n'
    return parse_policy(f'name = "one TPM"\n[tpm]\nak_names = ["{name}"]\nallow_unknown_ek = true\n{pcrs}')


def answering(good: VerifyingBroker, **replies: Response) -> Answer:
    """The broker, but for what it answers to `auth`, `attest` or `resource`."""

    def answer(request: Request) -> Response:
        return replies.get(request.path.removeprefix("/kbs/v0/").partition("/")[0]) or good(request)

    return answer


COOKIE = {"Set-Cookie": "kbs-session-id=1"}


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ({"auth": Response(200, b'{"nonce": "n", "extra-params": ""}')}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": "n"}', {"Set-Cookie": "other=1"})}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": "n"}', {"Set-Cookie": "kbs-session-id="})}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": "n"}', {"Set-Cookie": "kbs-session-id=a b"})}, MalformedReplyError),
        ({"auth": Response(200, b"", COOKIE)}, MalformedReplyError),
        ({"auth": Response(200, b"[" * 100_000, COOKIE)}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": 1}', COOKIE)}, MalformedReplyError),
        ({"auth": Response(200, b'{"nonce": "\xff"}', COOKIE)}, MalformedReplyError),
        (
            {"auth": Response(200, b'{"nonce": "n", "extra-params": {"selected-hash-algorithm": "md5"}}', COOKIE)},
            MalformedReplyError,
        ),
        # A cookie and a nonce that the broker does not know afterwards.
        ({"auth": Response(200, b'{"nonce": "n"}', COOKIE)}, KeyRefusedError),
        ({"auth": Response(302, b"", {"Location": "http://127.0.0.1:1/"})}, KeyServiceError),
        ({"auth": Response(500, SECRET)}, KeyServiceError),
        ({"attest": Response(200, b"{}")}, MalformedReplyError),
        ({"attest": Response(401, SECRET)}, KeyRefusedError),
        ({"resource": Response(200, SECRET)}, MalformedReplyError),
        ({"resource": Response(200, b'{"the secret key": 1}')}, MalformedReplyError),
        ({"resource": Response(403)}, KeyRefusedError),
    ],
)
def test_replies_that_are_not_of_the_protocol_raise_our_own_errors_and_say_no_secret(
    broker: VerifyingBroker,
    serving: Callable[[Answer], contextlib.AbstractContextManager[str]],
    replies: dict[str, Response],
    error: type[Exception],
) -> None:
    with serving(answering(broker, **replies)) as url, pytest.raises(error) as caught:
        fetch(url)
    assert "secret key" not in str(caught.value)


def test_the_nonce_of_another_session_is_refused(
    broker: VerifyingBroker, serving: Callable[[Answer], contextlib.AbstractContextManager[str]]
) -> None:
    def mixing(request: Request) -> Response:
        reply = broker(request)
        if request.path.endswith("/auth"):
            body = json.loads(reply.body) | {"nonce": "bm90IHRoaXMgc2Vzc2lvbidz"}
            return Response(reply.status, json.dumps(body).encode(), reply.headers)
        return reply

    with serving(mixing) as url, pytest.raises(KeyRefusedError):
        fetch(url)


def test_a_reply_encrypted_to_another_key_is_refused(
    broker: VerifyingBroker, serving: Callable[[Answer], contextlib.AbstractContextManager[str]]
) -> None:
    theirs = asyncio.run(new_recipient(BrokerKey.EC)).jwk()

    def diverting(request: Request) -> Response:
        if request.path.startswith("/kbs/v0/resource"):
            for session in broker.sessions.values():
                session["key"] = theirs
        return broker(request)

    with serving(diverting) as url, pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        fetch(url)


def test_a_resource_that_does_not_exist_is_named(url: str) -> None:
    with pytest.raises(KeyRefusedError, match="default/key/9: the broker has no such resource"):
        fetch(url, resource="default/key/9")
