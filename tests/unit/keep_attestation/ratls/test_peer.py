"""Which peers a client accepts, by certificate in the handshake and by fresh evidence on the connection."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app_loader.attesters.simulated import attest
from keep_attestation.errors import EvidenceRefusedError, MalformedEvidenceError
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict, new_nonce, verify_fresh, verify_peer
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.verdict import Freshness, Outcome
from keep_protocol.cmw import build_collection, cmw_extension
from keep_protocol.evidence import CMW_OID, EvidenceKind, encode_claims, report_data
from tests.unit.keep_attestation.ratls.makers import (
    AT,
    EXPECTED,
    KEEP_ID,
    MEASUREMENT,
    POLICY,
    SPEC_SHA256,
    WORKLOAD_SHA256,
    FakeKeep,
    make_certificate,
)

NONCE = hashlib.sha256(b"nonce").digest()
EXPORTER = hashlib.sha256(b"exporter of this connection").digest()


@pytest.fixture(scope="module")
def keep() -> FakeKeep:
    return FakeKeep()


def judge(
    certificate: bytes, expected: ExpectedKeep = EXPECTED, policy: Policy = POLICY, **options: Any
) -> PeerVerdict:
    return verify_peer(certificate, policy, expected=expected, at=options.pop("at", AT), **options)


def judge_fresh(
    collection: bytes, certificate: bytes, expected: ExpectedKeep = EXPECTED, **options: Any
) -> PeerVerdict:
    nonce, exporter = options.pop("nonce", NONCE), options.pop("exporter", EXPORTER)
    at, policy = options.pop("at", AT), options.pop("policy", POLICY)
    return verify_fresh(collection, certificate, nonce, exporter, policy, expected=expected, at=at, **options)


def failed_checks(peer: PeerVerdict) -> list[str]:
    return [check.name for check in peer.verdict.failures]


def test_the_certificate_of_the_expected_keep_is_accepted_for_its_key_alone(keep: FakeKeep) -> None:
    peer = judge(keep.certificate())
    assert peer.accepted, peer.verdict.summary
    assert peer.verdict.freshness is Freshness.KEY
    assert peer.claims == keep.claims()
    assert peer.spki_sha256 == hashlib.sha256(keep.spki).hexdigest()
    assert peer.require() is peer


def test_the_verdict_has_the_checks_of_certificate_claims_and_evidence(keep: FakeKeep) -> None:
    passed = {check.name for check in judge(keep.certificate()).verdict.checks if check.outcome is Outcome.PASS}
    assert passed == {
        "ratls.signature",
        "ratls.key-type",
        "ratls.validity",
        "ratls.lifetime",
        "ratls.phase",
        "ratls.issued",
        "ratls.key",
        "ratls.kind",
        "ratls.keep",
        "ratls.spec",
        "simulated.signature",
        "simulated.binding",
        "simulated.measurement",
    }


def test_evidence_copied_into_a_certificate_of_another_key_is_refused(keep: FakeKeep) -> None:
    # Rows 3 and 4: an impostor shows the extension of a real keep under a key of his own.
    impostor = FakeKeep()
    peer = judge(impostor.certificate(keep.collection()))
    assert failed_checks(peer) == ["ratls.key"]
    with pytest.raises(EvidenceRefusedError, match="taken from another keep"):
        peer.require()


def test_claims_changed_after_the_evidence_was_made_are_refused(keep: FakeKeep) -> None:
    # Row 24: the evidence is bound to the claims as a whole, under a domain string.
    honest = encode_claims(keep.claims(spec_sha256=bytes(32)))
    evidence = attest(report_data(honest), MEASUREMENT)
    forged = build_collection(EvidenceKind.SIMULATED, evidence, encode_claims(keep.claims()))
    assert failed_checks(judge(keep.certificate(forged))) == ["simulated.binding"]


def test_a_report_made_for_another_protocol_is_refused(keep: FakeKeep) -> None:
    claims = encode_claims(keep.claims())
    without_domain = hashlib.sha512(claims).digest()
    forged = build_collection(EvidenceKind.SIMULATED, attest(without_domain, MEASUREMENT), claims)
    assert failed_checks(judge(keep.certificate(forged))) == ["simulated.binding"]


@pytest.mark.parametrize("kept", [32, 48, 63])
def test_a_prefix_of_the_report_data_is_not_enough(keep: FakeKeep, kept: int) -> None:
    # Row 34.
    claims = encode_claims(keep.claims())
    right = report_data(claims)
    wrong = right[:kept] + bytes(byte ^ 0xFF for byte in right[kept:])
    forged = build_collection(EvidenceKind.SIMULATED, attest(wrong, MEASUREMENT), claims)
    assert failed_checks(judge(keep.certificate(forged))) == ["simulated.binding"]


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"keep": "ffffffffffff"}, "ratls.keep"),
        ({"spec_sha256": bytes(32)}, "ratls.spec"),
        ({"kind": EvidenceKind.SNP}, "ratls.kind"),
        ({"nonce": NONCE}, "ratls.phase"),
        ({"exporter": EXPORTER}, "ratls.phase"),
        ({"issued_at": int((AT + timedelta(hours=1)).timestamp())}, "ratls.issued"),
        ({"issued_at": int((AT - timedelta(hours=25)).timestamp())}, "ratls.issued"),
        ({"issued_at": 1 << 60}, "ratls.issued"),
    ],
)
def test_an_honest_keep_with_other_claims_is_refused(keep: FakeKeep, changes: dict[str, Any], failed: str) -> None:
    assert failed_checks(judge(keep.certificate(keep.collection(**changes)))) == [failed]


def test_the_backend_and_the_workload_are_compared_when_expected(keep: FakeKeep) -> None:
    expected = ExpectedKeep(keep=KEEP_ID, spec_sha256=SPEC_SHA256, workload_sha256=WORKLOAD_SHA256, backend="snp")
    assert failed_checks(judge(keep.certificate(), expected)) == ["ratls.backend", "ratls.workload"]
    loaded = keep.certificate(keep.collection(workload_sha256=WORKLOAD_SHA256, backend="snp"))
    assert judge(loaded, expected).accepted


def test_the_configuration_is_compared_when_expected_and_noted_when_claimed(keep: FakeKeep) -> None:
    digest = hashlib.sha256(b"the configuration").digest()
    expected = ExpectedKeep(keep=KEEP_ID, spec_sha256=SPEC_SHA256, configuration_sha256=digest)
    assert failed_checks(judge(keep.certificate(), expected)) == ["ratls.configuration"]
    configured = keep.certificate(keep.collection(configuration_sha256=digest))
    assert judge(configured, expected).accepted
    unasked = judge(configured, ExpectedKeep(keep=KEEP_ID, spec_sha256=SPEC_SHA256))
    assert [check.outcome for check in unasked.verdict.checks if check.name == "ratls.configuration"] == [Outcome.NOTE]
    without = judge(keep.certificate(), ExpectedKeep(keep=KEEP_ID, spec_sha256=SPEC_SHA256))
    assert "ratls.configuration" not in {check.name for check in without.verdict.checks}


def test_what_is_not_expected_is_noted_as_not_compared(keep: FakeKeep) -> None:
    peer = judge(keep.certificate(), ExpectedKeep(keep=None, spec_sha256=None))
    notes = {check.name for check in peer.verdict.checks if check.outcome is Outcome.NOTE}
    assert {"ratls.keep", "ratls.spec", "ratls.workload", "ratls.backend"} <= notes


def test_a_production_policy_refuses_a_simulated_keep_before_its_evidence_is_parsed(keep: FakeKeep) -> None:
    # Row 30.
    claims = encode_claims(keep.claims())
    unparsable = build_collection(EvidenceKind.SIMULATED, b"\xff", claims)
    assert failed_checks(judge(keep.certificate(unparsable), policy=Policy())) == ["policy.kind"]


def test_simulated_evidence_that_calls_itself_snp_is_no_snp_evidence(keep: FakeKeep) -> None:
    # Row 30: downgrade of the kind by the peer.
    claims = encode_claims(keep.claims(kind=EvidenceKind.SNP))
    evidence = attest(report_data(claims), MEASUREMENT)
    peer = judge(keep.certificate(build_collection(EvidenceKind.SNP, evidence, claims)))
    assert failed_checks(peer) == ["policy.kind"]


def test_a_policy_that_demands_nothing_accepts_nothing(keep: FakeKeep) -> None:
    peer = judge(keep.certificate(), policy=Policy(simulated=(SimulatedPolicy(),)))
    assert failed_checks(peer) == ["simulated.measurement"]


def test_an_expired_certificate_is_refused_with_its_dates(keep: FakeKeep) -> None:
    peer = judge(keep.certificate(lifetime=timedelta(minutes=5)), at=AT + timedelta(minutes=10))
    assert failed_checks(peer) == ["ratls.validity"]
    assert "2026-11-01T12:04:00Z, not at 2026-11-01T12:10:00Z" in peer.verdict.summary


def test_a_certificate_of_the_future_is_refused_beyond_the_allowed_skew(keep: FakeKeep) -> None:
    certificate = keep.certificate(not_before=AT + timedelta(minutes=4))
    assert judge(certificate).accepted
    strict = CertificatePolicy(clock_skew_seconds=60)
    assert failed_checks(judge(certificate, certificate_policy=strict)) == ["ratls.validity"]


def test_a_certificate_that_lives_for_years_is_refused(keep: FakeKeep) -> None:
    assert failed_checks(judge(keep.certificate(lifetime=timedelta(days=365)))) == ["ratls.lifetime"]


def test_a_self_issued_certificate_with_the_signature_of_another_key_is_refused(keep: FakeKeep) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert failed_checks(judge(keep.certificate(signer=other))) == ["ratls.signature"]


def test_a_certificate_signed_by_an_authority_is_judged_by_its_evidence(keep: FakeKeep) -> None:
    authority = ec.generate_private_key(ec.SECP384R1())
    peer = judge(keep.certificate(signer=authority, issuer="authority"))
    assert peer.accepted
    assert ("ratls.signature", Outcome.NOTE) in {(check.name, check.outcome) for check in peer.verdict.checks}


def test_a_p384_key_is_accepted() -> None:
    keep = FakeKeep(key=ec.generate_private_key(ec.SECP384R1()))
    assert judge(keep.certificate()).accepted


@pytest.mark.parametrize("curve", [ec.SECP521R1(), ec.SECP256K1()])
def test_other_curves_are_refused_by_name(curve: ec.EllipticCurve) -> None:
    keep = FakeKeep(key=ec.generate_private_key(curve))
    peer = judge(keep.certificate())
    assert failed_checks(peer) == ["ratls.key-type"]
    assert curve.name in peer.verdict.summary


def test_an_rsa_key_is_refused_in_our_own_convention() -> None:
    keep = FakeKeep(key=rsa.generate_private_key(65537, 3072))  # type: ignore[arg-type]  # the point of the test
    assert failed_checks(judge(keep.certificate())) == ["ratls.key-type"]


def test_a_critical_extension_that_nobody_knows_is_refused(keep: FakeKeep) -> None:
    extensions = {CMW_OID: cmw_extension(keep.collection()), "1.2.3.4": b"\x05\x00"}
    peer = judge(make_certificate(keep.key, extensions, critical=True))
    assert failed_checks(peer) == ["ratls.critical"]
    assert "1.2.3.4" in peer.verdict.summary


def test_every_flipped_byte_of_the_evidence_is_refused_in_a_certificate_that_is_signed_anew(keep: FakeKeep) -> None:
    collection = keep.collection()
    for position in range(0, len(collection), 3):
        mutated = bytearray(collection)
        mutated[position] ^= 0x01
        try:
            accepted = judge(keep.certificate(bytes(mutated))).accepted
        except MalformedEvidenceError:
            continue
        assert not accepted, position


def test_a_certificate_is_refused_truncated_and_with_trailing_bytes(keep: FakeKeep) -> None:
    certificate = keep.certificate()
    for size in range(0, len(certificate), 7):
        with pytest.raises(MalformedEvidenceError):
            judge(certificate[:size])
    with pytest.raises(MalformedEvidenceError):
        judge(certificate + b"\0")


def test_fresh_evidence_is_accepted_for_this_connection(keep: FakeKeep) -> None:
    peer = judge_fresh(keep.answer(NONCE, EXPORTER), keep.certificate())
    assert peer.accepted, peer.verdict.summary
    assert peer.verdict.freshness is Freshness.CONNECTION


def test_an_answer_to_another_challenge_is_refused(keep: FakeKeep) -> None:
    # Row 5: replay of an answer to an earlier nonce.
    peer = judge_fresh(keep.answer(NONCE, EXPORTER), keep.certificate(), nonce=new_nonce())
    assert failed_checks(peer) == ["ratls.nonce"]


def test_evidence_without_a_nonce_is_refused_as_an_answer(keep: FakeKeep) -> None:
    # Row 6: what a stolen TLS key can replay is the evidence of the certificate.
    peer = judge_fresh(keep.collection(), keep.certificate())
    assert failed_checks(peer) == ["ratls.nonce", "ratls.exporter"]


def test_evidence_of_another_connection_of_the_same_keep_is_refused(keep: FakeKeep) -> None:
    # Row 3, CVE-2026-33697: the relay even holds the keep's TLS key.
    theirs = hashlib.sha256(b"exporter of the relay's own connection").digest()
    peer = judge_fresh(keep.answer(NONCE, theirs), keep.certificate())
    assert failed_checks(peer) == ["ratls.exporter"]
    assert "relays" in peer.verdict.summary


def test_fresh_evidence_of_another_key_than_the_connections_is_refused(keep: FakeKeep) -> None:
    peer = judge_fresh(keep.answer(NONCE, EXPORTER), FakeKeep().certificate())
    assert failed_checks(peer) == ["ratls.key"]


def test_fresh_evidence_of_another_keep_with_the_same_image_is_refused(keep: FakeKeep) -> None:
    # Diversion to another genuine keep.
    peer = judge_fresh(keep.answer(NONCE, EXPORTER, keep="another", spec_sha256=bytes(32)), keep.certificate())
    assert failed_checks(peer) == ["ratls.keep", "ratls.spec"]


def test_an_answer_in_another_time_is_refused(keep: FakeKeep) -> None:
    peer = judge_fresh(keep.answer(NONCE, EXPORTER), keep.certificate(), at=AT + timedelta(hours=1))
    assert failed_checks(peer) == ["ratls.issued"]


@pytest.mark.parametrize("nonce", [bytes(32), b"\x01" * 32, b"0123" * 8])
def test_a_constant_nonce_is_an_error_of_the_caller(keep: FakeKeep, nonce: bytes) -> None:
    # Row 5, CVE-2026-6420.
    with pytest.raises(ValueError, match="constant"):
        judge_fresh(keep.answer(nonce, EXPORTER), keep.certificate(), nonce=nonce)


def test_short_nonces_and_exporters_are_errors_of_the_caller(keep: FakeKeep) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        judge_fresh(keep.answer(NONCE, EXPORTER), keep.certificate(), nonce=NONCE[:16])
    with pytest.raises(ValueError, match="32 bytes"):
        judge_fresh(keep.answer(NONCE, EXPORTER), keep.certificate(), exporter=b"")


def test_no_two_challenges_have_the_same_nonce() -> None:
    assert len({new_nonce() for _ in range(100)}) == 100


def test_every_flipped_byte_of_an_answer_is_refused(keep: FakeKeep) -> None:
    answer, certificate = keep.answer(NONCE, EXPORTER), keep.certificate()
    for position in range(0, len(answer), 3):
        mutated = bytearray(answer)
        mutated[position] ^= 0x01
        try:
            accepted = judge_fresh(bytes(mutated), certificate).accepted
        except MalformedEvidenceError:
            continue
        assert not accepted, position


def test_a_key_of_another_algorithm_is_refused(keep: FakeKeep) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    authority = ec.generate_private_key(ec.SECP256R1())
    certificate = make_certificate(
        key, {CMW_OID: cmw_extension(keep.collection())}, signer=authority, issuer="authority"
    )
    assert failed_checks(judge(certificate)) == ["ratls.key-type", "ratls.key"]
