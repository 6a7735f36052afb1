"""A server with evidence: in its certificate, and fresh on every connection that asks, bound to it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from app_loader.attesters.interface import Attestation, Statement
from app_loader.attesters.selection import SimulatedAttester
from app_loader.errors import AttesterError
from keep_attestation.evidence import claims_binding
from keep_attestation.ratls.certificate import check_bearer, read_ratls
from keep_attestation.ratls.collection import KeepCollection, decode_collection
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.simulated.verifier import examine_simulated
from keep_attestation.verdict import Freshness, Outcome
from keep_protocol.evidence import CMW_OID, EXPORTER_LABEL, EXPORTER_SIZE, EvidenceKind
from keep_protocol.states import KeepRole
from tests.unit.app_loader.attesting import AttestedServing
from tests.unit.app_loader.pki import Credential, now, self_signed
from tests.unit.app_loader.serving import PATIENCE, Answer, Wire

NONCE = os.urandom(32)


@pytest.fixture(scope="module")
def alice() -> Credential:
    return self_signed()


@pytest.fixture
def keep(tmp_path: Path, alice: Credential) -> Iterator[AttestedServing]:
    with AttestedServing(tmp_path, [alice.pinned()]) as serving:
        yield serving


def challenge(wire: Wire, nonce: bytes = NONCE) -> Answer:
    body = json.dumps({"nonce": base64.b64encode(nonce).decode()}).encode()
    return wire.ask("POST", "/v1/attestation", body, content_type="application/json")


def collection(answer: Answer) -> KeepCollection:
    assert (answer.status, answer.headers["content-type"]) == (200, "application/cmw+cbor")
    return decode_collection(answer.body)


def der_of(keep: AttestedServing) -> bytes:
    return x509.load_pem_x509_certificate(keep.identity.certificate.encode()).public_bytes(Encoding.DER)


class ExportingClient:
    """A client by pyOpenSSL, which can export as much as the keep can."""

    def __init__(self, keep: AttestedServing, credential: Credential) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        path = os.fspath(credential.write(keep.folder))
        context.use_certificate_chain_file(path)
        context.use_privatekey_file(path)
        self._socket = keep.tcp()
        self._socket.settimeout(None)
        self.connection = SSL.Connection(context, self._socket)
        self.connection.set_connect_state()
        self.connection.do_handshake()

    def __enter__(self) -> ExportingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def challenge(self, nonce: bytes) -> KeepCollection:
        body = b'{"nonce":"%s"}' % base64.b64encode(nonce)
        head = b"POST /v1/attestation HTTP/1.1\r\nhost: keep\r\ncontent-type: application/json\r\n"
        self.connection.sendall(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        received = b""
        try:
            while True:
                received += self.connection.recv(65536)
        except SSL.ZeroReturnError:
            pass
        head, _, content = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return decode_collection(content)

    def exported(self, nonce: bytes) -> bytes:
        material: bytes = self.connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)
        return material


class TestCertificate:
    def test_it_carries_one_collection_in_an_extension_that_is_not_critical(self, keep: AttestedServing) -> None:
        certificate = x509.load_der_x509_certificate(der_of(keep))
        found = [extension for extension in certificate.extensions if extension.oid.dotted_string == CMW_OID]
        assert [extension.critical for extension in found] == [False]

    def test_its_claims_are_of_the_keeps_key_spec_and_id_and_of_no_connection(self, keep: AttestedServing) -> None:
        (item,) = read_ratls(der_of(keep)).items
        claims = item.claims
        assert claims is not None
        assert claims.spki_sha256 == hashlib.sha256(keep.identity.spki).digest()
        assert (claims.keep, claims.backend, claims.spec_sha256) == (keep.keep_id, "process", keep.spec_sha256)
        assert (claims.nonce, claims.exporter, claims.workload_sha256) == (None, None, None)

    def test_its_evidence_is_bound_to_these_claims(self, keep: AttestedServing) -> None:
        (item,) = read_ratls(der_of(keep)).items
        examination = examine_simulated(item.evidence, binding=item.binding, at=now())
        assert {check.outcome for check in examination.checks} == {Outcome.PASS, Outcome.NOTE}

    def test_verifiers_find_no_fault_in_it(self, keep: AttestedServing) -> None:
        checks = check_bearer(read_ratls(der_of(keep)), CertificatePolicy(), now())
        assert [check for check in checks if check.outcome is Outcome.FAIL] == []

    def test_a_renewed_certificate_has_evidence_too(self, keep: AttestedServing) -> None:
        before = der_of(keep)
        keep.identity.renew()
        assert der_of(keep) != before
        (item,) = read_ratls(der_of(keep)).items
        assert item.claims is not None
        assert item.claims.spki_sha256 == hashlib.sha256(keep.identity.spki).digest()

    def test_a_client_that_pins_it_strictly_is_not_disturbed(self, keep: AttestedServing, alice: Credential) -> None:
        assert keep.connect(alice).ask("GET", "/v1/status").status == 200


class TestChallenge:
    def test_the_answer_holds_the_nonce_and_the_exporter_of_this_connection(
        self, keep: AttestedServing, alice: Credential
    ) -> None:
        with ExportingClient(keep, alice) as client:
            claims = client.challenge(NONCE).claims
            assert (claims.nonce, claims.exporter) == (NONCE, client.exported(NONCE))

    def test_two_connections_get_different_evidence_for_one_nonce(
        self, keep: AttestedServing, alice: Credential
    ) -> None:
        one, other = (collection(challenge(keep.connect(alice))) for _ in range(2))
        assert one.claims.nonce == other.claims.nonce == NONCE
        assert one.claims.exporter != other.claims.exporter
        assert one.evidence.body != other.evidence.body

    def test_one_connection_gets_different_evidence_for_every_nonce(
        self, keep: AttestedServing, alice: Credential
    ) -> None:
        wire = keep.connect(alice)
        one, other = collection(challenge(wire)), collection(challenge(wire, os.urandom(32)))
        assert one.claims.exporter != other.claims.exporter

    def test_the_evidence_is_bound_to_the_claims_that_are_sent(self, keep: AttestedServing, alice: Credential) -> None:
        answer = collection(challenge(keep.connect(alice)))
        binding = claims_binding(answer.encoded_claims, keep.identity.spki, nonce=NONCE, freshness=Freshness.CONNECTION)
        examination = examine_simulated(answer.evidence, binding=binding, at=now())
        assert {check.outcome for check in examination.checks} == {Outcome.PASS, Outcome.NOTE}

    def test_the_workload_joins_the_claims_once_it_is_loaded(self, keep: AttestedServing, alice: Credential) -> None:
        wire = keep.connect(alice)
        assert collection(challenge(wire)).claims.workload_sha256 is None
        keep.loaded(b"w" * 32)
        assert collection(challenge(wire)).claims.workload_sha256 == b"w" * 32

    def test_the_connection_counts_as_attested_only_after_the_answer(
        self, keep: AttestedServing, alice: Credential
    ) -> None:
        wire = keep.connect(alice)
        wire.ask("GET", "/v1/status")
        assert [session.attested for session in keep._sessions] == [False]
        challenge(wire)
        other = keep.connect(alice)
        other.ask("GET", "/v1/status")
        assert [session.attested for session in keep._sessions] == [True, False]

    @pytest.mark.parametrize("role", list(KeepRole))
    def test_every_role_may_ask(self, tmp_path: Path, role: KeepRole) -> None:
        owner, other = self_signed(), self_signed()
        with AttestedServing(tmp_path, [owner.pinned(), other.pinned(role)]) as keep:
            assert collection(challenge(keep.connect(other))).claims.nonce == NONCE

    @pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 64])
    def test_a_nonce_of_another_size_is_invalid(self, keep: AttestedServing, alice: Credential, size: int) -> None:
        answer = challenge(keep.connect(alice), bytes(size))
        assert (answer.status, answer.problem.code) == (422, "field-invalid")

    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b'{"nonce":null}',
            b'{"nonce":"%s"}' % (b"?" * 44),
            b'{"nonce":"%s="}' % (b"-" * 43),
            b'{"nonce":"%s","more":1}' % base64.b64encode(NONCE),
        ],
    )
    def test_a_malformed_challenge_is_invalid(self, keep: AttestedServing, alice: Credential, body: bytes) -> None:
        answer = keep.connect(alice).ask("POST", "/v1/attestation", body, content_type="application/json")
        assert answer.status == 422

    def test_a_keep_without_evidence_says_so(self, tmp_path: Path, alice: Credential) -> None:
        with AttestedServing(tmp_path, [alice.pinned()], evidence=False) as keep:
            answer = challenge(keep.connect(alice))
            assert (answer.status, answer.problem.code) == (HTTPStatus.CONFLICT, "evidence-unavailable")
            certificate = x509.load_der_x509_certificate(der_of(keep))
        assert CMW_OID not in {extension.oid.dotted_string for extension in certificate.extensions}


class SlowHardware:
    """Makes simulated evidence when it is told to, and counts how many ask at a time."""

    kind = EvidenceKind.SIMULATED

    def __init__(self) -> None:
        self._simulated = SimulatedAttester()
        self._lock = threading.Lock()
        self._at_work = 0
        self.most_at_work = 0
        self.slow = False
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.fails = False

    def attest(self, statement: Statement) -> Attestation:
        with self._lock:
            self._at_work += 1
            self.most_at_work = max(self.most_at_work, self._at_work)
        try:
            if self.slow:
                self.begun.release()
                assert self.go_on.acquire(timeout=PATIENCE)
            if self.fails:
                raise AttesterError("the device is gone: /dev/secret-place")
            return self._simulated.attest(statement)
        finally:
            with self._lock:
                self._at_work -= 1


class TestHardware:
    @pytest.fixture
    def hardware(self) -> SlowHardware:
        return SlowHardware()

    @pytest.fixture
    def keep(self, tmp_path: Path, alice: Credential, hardware: SlowHardware) -> Iterator[AttestedServing]:
        with AttestedServing(tmp_path, [alice.pinned()], attester=hardware) as serving:
            hardware.slow = True
            yield serving
            hardware.go_on.release(100)

    def test_others_are_served_while_it_works(
        self, keep: AttestedServing, alice: Credential, hardware: SlowHardware
    ) -> None:
        asking, other = keep.connect(alice), keep.connect(alice)
        _send_challenge(asking)
        assert hardware.begun.acquire(timeout=PATIENCE)
        assert other.ask("GET", "/v1/status").status == 200
        hardware.go_on.release()
        assert collection(asking.answer()).claims.nonce == NONCE

    def test_it_is_asked_one_at_a_time(self, keep: AttestedServing, alice: Credential, hardware: SlowHardware) -> None:
        wires = [keep.connect(alice) for _ in range(3)]
        for wire in wires:
            _send_challenge(wire)
        hardware.go_on.release(3)
        for wire in wires:
            assert collection(wire.answer()).claims.nonce == NONCE
        assert hardware.most_at_work == 1

    def test_clients_that_leave_do_not_make_it_work_for_two_at_a_time(
        self, keep: AttestedServing, alice: Credential, hardware: SlowHardware
    ) -> None:
        leaving, staying = keep.connect(alice), keep.connect(alice)
        _send_challenge(leaving)
        assert hardware.begun.acquire(timeout=PATIENCE)
        _send_challenge(staying)
        leaving.close()
        # Once the keep has noticed, only `staying` and this one are left.
        witness = keep.connect(alice)
        while len(keep.server._connections) > 2:
            witness.ask("GET", "/v1/status")
        hardware.go_on.release(2)
        assert collection(staying.answer()).claims.nonce == NONCE
        assert hardware.most_at_work == 1

    def test_a_failure_of_it_is_the_keeps_and_shows_nothing_of_the_host(
        self, keep: AttestedServing, alice: Credential, hardware: SlowHardware
    ) -> None:
        wire = keep.connect(alice)
        hardware.fails, hardware.slow = True, False
        answer = challenge(wire)
        assert (answer.status, answer.problem.code) == (500, "internal")
        assert b"secret-place" not in answer.body
        hardware.fails = False
        assert collection(challenge(wire)).claims.nonce == NONCE
        assert [session.attested for session in keep._sessions] == [True]


def _send_challenge(wire: Wire) -> None:
    body = b'{"nonce":"%s"}' % base64.b64encode(NONCE)
    head = b"POST /v1/attestation HTTP/1.1\r\nhost: keep\r\ncontent-type: application/json\r\n"
    wire.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)
