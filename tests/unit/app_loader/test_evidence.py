"""Evidence as a keep puts it together: claims of what is true of it, bound by the attester, in one collection."""

from __future__ import annotations

import hashlib

import pytest

from app_loader.attesters.interface import Attestation, Statement
from app_loader.errors import AttesterError
from app_loader.evidence import EvidenceMaker
from keep_attestation.ratls.collection import decode_collection
from keep_protocol.cmw import encode_endorsements
from keep_protocol.evidence import Claims, EvidenceKind, qualifying_data, report_data

SPKI = b"a SubjectPublicKeyInfo"
SPEC = hashlib.sha256(b"spec").digest()


class RecordingAttester:
    """Keeps what it was asked to bind."""

    kind = EvidenceKind.SNP

    def __init__(self, attestation: Attestation) -> None:
        self._attestation = attestation
        self.statements: list[Statement] = []

    def attest(self, statement: Statement) -> Attestation:
        self.statements.append(statement)
        return self._attestation


def maker(attester: RecordingAttester, now: float = 1_800_000_000.9) -> EvidenceMaker:
    return EvidenceMaker(attester, keep="0123456789abcdef", backend="process", spec_sha256=SPEC, clock=lambda: now)


def test_a_certificates_claims_name_key_spec_keep_backend_and_time_and_no_connection() -> None:
    attester = RecordingAttester(Attestation(b"report"))
    collection = decode_collection(maker(attester).collection(SPKI))
    assert collection.claims == Claims(
        kind=EvidenceKind.SNP,
        backend="process",
        keep="0123456789abcdef",
        spki_sha256=hashlib.sha256(SPKI).digest(),
        spec_sha256=SPEC,
        issued_at=1_800_000_000,
    )
    assert collection.evidence.body == b"report"
    assert attester.statements[0].nonce is None


def test_fresh_claims_name_nonce_exporter_and_workload_too() -> None:
    attester = RecordingAttester(Attestation(b"report"))
    nonce, exporter, workload = b"n" * 32, b"e" * 32, b"w" * 32
    made = maker(attester).collection(SPKI, nonce=nonce, exporter=exporter, workload_sha256=workload)
    claims = decode_collection(made).claims
    assert (claims.nonce, claims.exporter, claims.workload_sha256) == (nonce, exporter, workload)
    assert attester.statements[0].nonce == nonce


def test_the_attester_binds_exactly_the_claims_that_are_sent() -> None:
    attester = RecordingAttester(Attestation(b"report"))
    sent = decode_collection(maker(attester).collection(SPKI)).encoded_claims
    (statement,) = attester.statements
    assert (statement.claims, statement.spki) == (sent, SPKI)
    assert statement.report_data == report_data(sent)
    assert statement.qualifying_data == qualifying_data(sent)


def test_endorsements_and_log_travel_beside_the_evidence() -> None:
    attester = RecordingAttester(Attestation(b"report", encode_endorsements(certificates=[b"vcek"]), b"log"))
    evidence = decode_collection(maker(attester).collection(SPKI)).evidence
    assert (evidence.endorsements.certificates, evidence.log) == ((b"vcek",), b"log")


def test_an_attester_that_fails_makes_no_evidence() -> None:
    class Failing(RecordingAttester):
        def attest(self, statement: Statement) -> Attestation:
            raise AttesterError("the device is gone")

    with pytest.raises(AttesterError, match="the device is gone"):
        maker(Failing(Attestation(b""))).collection(SPKI)
