"""Keeps that do not prove what they should get nothing: no byte in phase one, the fixed challenge in phase two."""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import keep_client.channel
from app_loader.identity import Identity
from keep_attestation.policy import parse_policy
from keep_attestation.trusted_time import TimeFloor
from keep_client import Credentials
from keep_client.attested_peer import AttestedPeer
from keep_client.attested_tls import MAX_COLLECTION, attestation_request, attested_context
from keep_client.errors import ConnectionFailedError, EvidenceRefusedError, InvalidArgumentError, PeerRefusedError
from tests.unit.app_loader.attesting import DOMAIN, KEEP_ID, attested_spec, evidence_maker, private_key_of
from tests.unit.app_loader.pki import self_signed
from tests.unit.keep_client.attested_keeps import (
    CHALLENGE_SIZE,
    Ask,
    Challenge,
    Proof,
    ScriptedKeep,
    ask_async,
    ask_sync,
    nonce_of,
    ok,
    peer_for,
)
from tests.unit.keep_client.certificates import Authority

DAY = 24 * 3600

both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@pytest.fixture(scope="module")
def proof() -> Proof:
    return Proof()


def never(challenge: Challenge) -> bytes:
    raise AssertionError("a keep that is refused in the handshake is never challenged")


def test_a_challenge_is_of_one_size_and_has_nothing_in_it_but_the_nonce() -> None:
    for nonce in (bytes(32), b"\xff" * 32):
        request = attestation_request(nonce)
        assert nonce_of(request) == nonce
        assert len(request) == CHALLENGE_SIZE
        encoded = base64.b64encode(nonce)
        assert request.replace(encoded, b"") == attestation_request(b"n" * 32).replace(base64.b64encode(b"n" * 32), b"")


class TestPhaseOne:
    """Refused in the handshake: not a byte of a request, and not even our certificate."""

    def refused(self, ask: Ask, keep: ScriptedKeep, peer: AttestedPeer, credentials: Credentials) -> str:
        with keep:
            with pytest.raises(PeerRefusedError) as caught:
                ask(keep.endpoint, peer, credentials)
            seen = keep.finished()
        assert [(one.application, one.certificate) for one in seen] == [(b"", None)]
        assert "alert" in str(seen[0].error), "the keep is told that it is refused"
        return str(caught.value)

    @both
    def test_a_keep_with_another_spec(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        peer = peer_for(attested_spec([self_signed().pinned()]))
        reason = self.refused(ask, ScriptedKeep(proof.identity, never), peer, credentials)
        assert "ratls.spec: the spec is" in reason

    @both
    def test_a_keep_with_other_code(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        policy = parse_policy(f'name = "another"\n[simulated]\nmeasurements = ["{"11" * 32}"]\n')
        reason = self.refused(
            ask, ScriptedKeep(proof.identity, never), peer_for(proof.spec, policy=policy), credentials
        )
        assert "simulated.measurement" in reason

    @both
    def test_simulated_evidence_under_a_production_policy(
        self, ask: Ask, proof: Proof, credentials: Credentials
    ) -> None:
        policy = parse_policy('name = "production"\n[nitro]\n')
        reason = self.refused(
            ask, ScriptedKeep(proof.identity, never), peer_for(proof.spec, policy=policy), credentials
        )
        assert "does not accept simulated evidence" in reason

    @both
    def test_a_policy_without_reference_values(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        policy = parse_policy('name = "empty"\n[simulated]\n')
        self.refused(ask, ScriptedKeep(proof.identity, never), peer_for(proof.spec, policy=policy), credentials)

    @both
    @pytest.mark.parametrize("days", [-3, 3], ids=["expired", "not valid yet"])
    def test_a_certificate_out_of_its_time(self, ask: Ask, proof: Proof, credentials: Credentials, days: int) -> None:
        identity = Identity(
            KEEP_ID,
            DOMAIN,
            ("127.0.0.1",),
            evidence=proof.maker.collection,
            clock=lambda: time.time() + days * DAY,
        )
        reason = self.refused(ask, ScriptedKeep(identity, never), peer_for(proof.spec), credentials)
        assert "ratls.validity" in reason

    @both
    def test_a_certificate_without_evidence(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        identity = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",))
        reason = self.refused(ask, ScriptedKeep(identity, never), peer_for(proof.spec), credentials)
        assert reason.startswith("the keep's certificate proves nothing: ")

    @both
    def test_a_certificate_with_garbage_for_evidence(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        identity = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",), evidence=lambda _: b"garbage")
        reason = self.refused(ask, ScriptedKeep(identity, never), peer_for(proof.spec), credentials)
        assert reason.startswith("the keep's certificate proves nothing: ")

    @both
    def test_a_genuine_keep_that_is_not_the_one_meant(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        peer = peer_for(proof.spec, keep="fedcba9876543210")
        reason = self.refused(ask, ScriptedKeep(proof.identity, never), peer, credentials)
        assert "ratls.keep: the keep is '0123456789abcdef', not 'fedcba9876543210'" in reason

    @both
    def test_evidence_that_was_taken_from_another_keeps_certificate(
        self, ask: Ask, proof: Proof, credentials: Credentials
    ) -> None:
        stolen = proof.maker.collection(proof.identity.spki)
        thief = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",), evidence=lambda _: stolen)
        reason = self.refused(ask, ScriptedKeep(thief, never), peer_for(proof.spec), credentials)
        assert "ratls.key: the claims are of another key" in reason

    @both
    def test_evidence_for_a_connection_in_a_certificate(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        identity = Identity(
            KEEP_ID,
            DOMAIN,
            ("127.0.0.1",),
            evidence=lambda spki: proof.maker.collection(spki, nonce=b"n" * 32, exporter=b"e" * 32),
        )
        reason = self.refused(ask, ScriptedKeep(identity, never), peer_for(proof.spec), credentials)
        assert "ratls.phase" in reason

    @both
    def test_a_certificate_that_a_ca_has_issued(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        authority = Authority()
        keep = ScriptedKeep(proof.identity, never, issued=(authority.server(), authority.certificate))
        reason = self.refused(ask, keep, peer_for(proof.spec), credentials)
        assert reason == "the peer shows a certificate that a CA has issued: a keep makes its own"

    @both
    def test_a_verdict_that_fails_in_an_unforeseen_way_accepts_nobody(
        self, ask: Ask, proof: Proof, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(AttestedPeer, "check_certificate", fail)
        with ScriptedKeep(proof.identity, never) as keep:
            with pytest.raises(ZeroDivisionError):
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            (seen,) = keep.finished()
        assert (seen.application, seen.certificate) == (b"", None)


def _stale(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.collection(challenge._replace(nonce=bytes(range(32)))))


def _without_nonce(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.maker.collection(proof.identity.spki, exporter=challenge.exporter))


def _of_another_connection(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.collection(challenge._replace(exporter=bytes(range(32)))))


def _without_exporter(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.maker.collection(proof.identity.spki, nonce=challenge.nonce))


def _from_the_certificate(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.maker.collection(proof.identity.spki))


def _of_another_key(proof: Proof, challenge: Challenge) -> bytes:
    other = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",))
    return ok(proof.maker.collection(other.spki, nonce=challenge.nonce, exporter=challenge.exporter))


def _of_another_keep(proof: Proof, challenge: Challenge) -> bytes:
    other = evidence_maker(proof.spec, keep="fedcba9876543210")
    return ok(other.collection(proof.identity.spki, nonce=challenge.nonce, exporter=challenge.exporter))


def _of_another_spec(proof: Proof, challenge: Challenge) -> bytes:
    other = evidence_maker(attested_spec([self_signed().pinned()]))
    return ok(other.collection(proof.identity.spki, nonce=challenge.nonce, exporter=challenge.exporter))


def _garbage(proof: Proof, challenge: Challenge) -> bytes:
    return ok(b"garbage")


def _nothing(proof: Proof, challenge: Challenge) -> bytes:
    return ok(b"")


def _cut_short(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.collection(challenge)[:-1])


def _too_long(proof: Proof, challenge: Challenge) -> bytes:
    return ok(proof.collection(challenge) + b"\0")


EVIDENCE_REFUSED: dict[Callable[[Proof, Challenge], bytes], str] = {
    _stale: "ratls.nonce: the claims hold another nonce",
    _without_nonce: "ratls.nonce: the claims hold no nonce",
    _of_another_connection: "ratls.exporter: the claims do not hold the TLS exporter of this connection",
    _without_exporter: "ratls.exporter",
    _from_the_certificate: "ratls.nonce: the claims hold no nonce",
    _of_another_key: "ratls.key: the claims are of another key",
    _of_another_keep: "ratls.keep: the keep is 'fedcba9876543210'",
    _of_another_spec: "ratls.spec: the spec is",
    _garbage: "answers the challenge with no evidence",
    _nothing: "answers the challenge with no evidence",
    _cut_short: "answers the challenge with no evidence",
    _too_long: "answers the challenge with no evidence",
}


def _chunked(size: int) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/cmw+cbor\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n"
    return head.encode() + bytes(size) + b"\r\n0\r\n\r\n"


def _answers_refused(proof: Proof) -> Iterator[tuple[str, Callable[[Challenge], bytes], str]]:
    def right(challenge: Challenge) -> bytes:
        return proof.collection(challenge)

    problem = b"HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}"
    yield "a problem", lambda _: problem, "it answers the challenge with status 409"
    yield "a redirect", lambda _: b"HTTP/1.1 307 X\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "status 307"
    yield "another media type", lambda c: ok(right(c), media_type="application/json"), "does not prove itself"
    yield "too much", lambda _: ok(bytes(MAX_COLLECTION + 1)), f"more than {MAX_COLLECTION} bytes"
    yield "too much in chunks", lambda _: _chunked(MAX_COLLECTION + 1), f"more than {MAX_COLLECTION} bytes"
    yield "a second answer", lambda c: ok(right(c)) + b"HTTP/1.1 200 OK\r\n\r\n", "more than it was asked for"
    yield "one byte more", lambda c: ok(right(c)) + b"\0", "more than it was asked for"
    yield "no HTTP", lambda _: b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "with no HTTP"
    yield "a head without an end", lambda _: b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, "with no HTTP"
    yield "a preliminary answer", lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n", "instead of proving itself"


class TestPhaseTwo:
    """Refused after the handshake: the keep has seen one challenge, and will see nothing else."""

    def refused(self, ask: Ask, keep: ScriptedKeep, proof: Proof, credentials: Credentials) -> PeerRefusedError:
        with keep:
            with pytest.raises(PeerRefusedError) as caught:
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            (seen,) = keep.finished()
        assert seen.application == attestation_request(nonce_of(seen.application))
        return caught.value

    @both
    @pytest.mark.parametrize("lie", EVIDENCE_REFUSED, ids=lambda lie: lie.__name__.strip("_"))
    def test_evidence_that_does_not_answer_the_challenge(
        self, ask: Ask, lie: Callable[[Proof, Challenge], bytes], proof: Proof, credentials: Credentials
    ) -> None:
        keep = ScriptedKeep(proof.identity, lambda challenge: lie(proof, challenge))
        refusal = self.refused(ask, keep, proof, credentials)
        assert isinstance(refusal, EvidenceRefusedError)
        assert EVIDENCE_REFUSED[lie] in str(refusal)

    @both
    @pytest.mark.parametrize("number", range(10))
    def test_an_answer_that_is_none(self, ask: Ask, number: int, proof: Proof, credentials: Credentials) -> None:
        _, answer, words = list(_answers_refused(proof))[number]
        assert words in str(self.refused(ask, ScriptedKeep(proof.identity, answer), proof, credentials))

    @both
    def test_a_collection_that_an_earlier_connection_was_answered_with(
        self, ask: Ask, proof: Proof, credentials: Credentials
    ) -> None:
        captured: list[bytes] = []

        def answer(challenge: Challenge) -> bytes:
            captured.append(proof.collection(challenge))
            return ok(captured[0])

        with ScriptedKeep(proof.identity, answer) as keep:
            ask(keep.endpoint, peer_for(proof.spec), credentials)
            with pytest.raises(EvidenceRefusedError, match=r"ratls\.nonce: the claims hold another nonce"):
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            accepted, refused = keep.finished()
        assert len(accepted.application) > CHALLENGE_SIZE
        assert refused.application == attestation_request(nonce_of(refused.application))

    @both
    def test_a_keep_that_never_answers_is_given_up(
        self, ask: Ask, proof: Proof, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keep_client.channel, "CONNECT_TIMEOUT", 0.5)
        with ScriptedKeep(proof.identity, lambda _: b"HTTP/1.1 200 OK\r\n") as keep:
            with pytest.raises(ConnectionFailedError, match="does not answer in time"):
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            (seen,) = keep.finished()
        # On a machine that is busy enough, the handshake itself may have taken too long.
        assert seen.application == b"" or nonce_of(seen.application)

    @both
    def test_a_keep_that_hangs_up_instead_of_answering(self, ask: Ask, proof: Proof, credentials: Credentials) -> None:
        def hang_up(challenge: Challenge) -> bytes:
            raise ConnectionError

        with ScriptedKeep(proof.identity, hang_up) as keep:
            with pytest.raises(ConnectionFailedError, match="the connection was cut off") as caught:
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            (seen,) = keep.finished()
        assert type(caught.value) is ConnectionFailedError
        assert seen.application == attestation_request(nonce_of(seen.application))

    def test_every_connection_is_challenged_with_a_nonce_of_its_own(
        self, proof: Proof, credentials: Credentials
    ) -> None:
        with ScriptedKeep(proof.identity, lambda _: ok(b"")) as keep:
            for _ in range(3):
                with pytest.raises(EvidenceRefusedError):
                    ask_sync(keep.endpoint, peer_for(proof.spec), credentials)
            nonces = {nonce_of(seen.application) for seen in keep.finished()}
        assert len(nonces) == 3

    def test_what_was_refused_once_is_refused_with_every_check_as_a_value(
        self, proof: Proof, credentials: Credentials
    ) -> None:
        keep = ScriptedKeep(proof.identity, lambda challenge: _stale(proof, challenge))
        refusal = self.refused(ask_sync, keep, proof, credentials)
        assert isinstance(refusal, EvidenceRefusedError)
        assert refusal.verdict is not None
        assert [check.name for check in refusal.verdict.verdict.failures] == ["ratls.nonce"]


@both
@pytest.mark.parametrize("loaded", [None, b"v" * 32], ids=["nothing", "another"])
def test_a_keep_that_has_not_loaded_the_workload_that_is_meant(
    ask: Ask, loaded: bytes | None, proof: Proof, credentials: Credentials
) -> None:
    def answer(challenge: Challenge) -> bytes:
        return ok(proof.collection(challenge, workload_sha256=loaded))

    with ScriptedKeep(proof.identity, answer) as keep:
        with pytest.raises(EvidenceRefusedError, match=r"ratls\.workload"):
            ask(keep.endpoint, peer_for(proof.spec, workload=b"w" * 32), credentials)
        (seen,) = keep.finished()
    assert seen.application == attestation_request(nonce_of(seen.application))


def test_a_clock_that_was_set_back_judges_no_keep() -> None:
    set_back = TimeFloor(clock=lambda: datetime(2020, 2, 2, tzinfo=UTC))
    peer = dataclasses.replace(peer_for(attested_spec([self_signed().pinned()])), time=set_back)
    with pytest.raises(EvidenceRefusedError, match="2020-02-02T00:00:00Z, before 2026-07-01T00:00:00Z"):
        peer.check_certificate(b"")
    with pytest.raises(EvidenceRefusedError, match="this machine's clock"):
        peer.check_fresh(b"", b"", nonce=bytes(range(32)), exporter=bytes(range(32)))


def test_credentials_that_do_not_belong_together_are_the_callers_fault(tmp_path: Path, proof: Proof) -> None:
    one, other = self_signed(), self_signed()
    (tmp_path / "key.pem").write_bytes(private_key_of(proof.identity))
    for certificate, key in (
        (one.write(tmp_path), other.write(tmp_path)),
        (one.write(tmp_path), tmp_path / "missing"),
        (tmp_path / "missing", one.write(tmp_path)),
        (tmp_path / "key.pem", tmp_path / "key.pem"),
    ):
        with pytest.raises(InvalidArgumentError, match="cannot be used together"):
            attested_context(peer_for(proof.spec), Credentials(certificate, key))
