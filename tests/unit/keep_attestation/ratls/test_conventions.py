"""Certificates of other systems: read only by conventions that were named, and bound to this certificate's key."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import datetime, timedelta
from typing import Any

import cbor2
import pytest
from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.ratls.certificate import PresentedEvidence, read_ratls
from keep_attestation.ratls.peer import PeerVerdict, verify_foreign
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import Convention, Conventions
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.verdict import Check, Examination, Verdict
from keep_protocol.cmw import cmw_extension
from keep_protocol.evidence import CMW_OID, EvidenceKind
from tests.unit.keep_attestation.ratls.foreign import (
    FOREIGN,
    GOOD,
    KEY,
    REPORT_DATA,
    SPKI,
    dice_evidence,
    enarx_sgx,
    enarx_snp,
    failed_checks,
    judge,
    read,
    sgx_quote,
    snp_report,
)
from tests.unit.keep_attestation.ratls.makers import AT, MEASUREMENT, FakeKeep, make_certificate, spki_of


@pytest.mark.parametrize("convention", FOREIGN)
def test_a_certificate_of_a_convention_that_was_named_is_accepted(convention: Convention) -> None:
    key, extensions = GOOD[convention]
    peer = judge(read(convention, make_certificate(key, extensions)), frozenset({convention}))
    assert peer.accepted, peer.verdict.summary
    assert peer.spki_sha256 == hashlib.sha256(spki_of(key)).hexdigest()
    assert peer.claims is None


@pytest.mark.parametrize("convention", FOREIGN)
def test_no_other_convention_is_accepted_by_default(convention: Convention) -> None:
    key, extensions = GOOD[convention]
    with pytest.raises(UnsupportedEvidenceError, match="not accepted"):
        read_ratls(make_certificate(key, extensions))


@pytest.mark.parametrize("convention", FOREIGN)
def test_the_same_extensions_under_another_key_are_refused(convention: Convention) -> None:
    _, extensions = GOOD[convention]
    curve = ec.SECP384R1() if convention is Convention.ENARX else ec.SECP256R1()
    impostor = make_certificate(ec.generate_private_key(curve), extensions)
    failed = failed_checks(judge(read(convention, impostor), frozenset({convention})))
    assert failed == (["ratls.key"] if convention is Convention.TCG_DICE else ["stub.binding"])


@pytest.mark.parametrize("convention", [c for c in FOREIGN if c not in (Convention.COCOS_LEGACY, Convention.DSTACK)])
def test_zeros_that_fill_up_report_data_are_compared_too(convention: Convention) -> None:
    # Row 34: a digest of 32 or 48 bytes leaves bytes that an attacker's own software could fill.
    key, extensions = GOOD[convention]
    presented = read(convention, make_certificate(key, extensions))
    wanted = presented.items[0].binding.report_data
    assert wanted is not None
    assert len(wanted) == 64
    assert wanted[48:] == bytes(16)


@pytest.mark.parametrize("convention", FOREIGN)
def test_certificates_that_live_for_decades_need_a_policy_that_says_so(convention: Convention) -> None:
    key, extensions = GOOD[convention]
    old = make_certificate(key, extensions, lifetime=timedelta(days=3650))
    accept = frozenset({convention})
    assert failed_checks(judge(read(convention, old), accept)) == ["ratls.lifetime"]
    assert judge(read(convention, old), accept, hours=24 * 3650).accepted


@pytest.mark.parametrize("convention", FOREIGN)
def test_mutated_extensions_raise_our_own_errors_or_are_refused(convention: Convention) -> None:
    key, extensions = GOOD[convention]
    bearer_oid = next(iter(extensions))
    value = extensions[bearer_oid]
    accept = frozenset({convention})
    # The stub compares report data alone: what is flipped elsewhere is the business of the verifiers of hardware.
    end = REPORT_DATA[EvidenceKind.TDX].stop + 16
    report_data = slice(value.index(bytes(64)), end)
    for position in [*range(24), *range(report_data.start, end, 29)]:
        for mutated in (value[:position], value[:position] + b"\xff" + value[position + 1 :]):
            with contextlib.suppress(MalformedEvidenceError):
                judge(read(convention, make_certificate(key, {**extensions, bearer_oid: mutated})), accept)


def test_evidence_by_two_conventions_must_be_bound_to_the_one_key() -> None:
    gramine, dice = GOOD[Convention.GRAMINE][1], GOOD[Convention.TCG_DICE][1]
    accept = frozenset({Convention.GRAMINE, Convention.TCG_DICE})
    assert judge(read_ratls(make_certificate(KEY, gramine | dice), accept=accept), accept).accepted
    stolen = {"0.6.9.42.840.113741.1337.6": sgx_quote(hashlib.sha256(b"another key").digest())}
    peer = judge(read_ratls(make_certificate(KEY, stolen | dice), accept=accept), accept)
    assert failed_checks(peer) == ["stub.binding"]


def test_evidence_that_is_not_accepted_refuses_evidence_that_is() -> None:
    both = GOOD[Convention.GRAMINE][1] | GOOD[Convention.TCG_DICE][1]
    with pytest.raises(UnsupportedEvidenceError, match="'gramine', which is not accepted"):
        read_ratls(make_certificate(KEY, both), accept=frozenset({Convention.TCG_DICE}))
    keep = FakeKeep(key=KEY)
    beside_ours = {CMW_OID: cmw_extension(keep.collection())} | GOOD[Convention.DSTACK][1]
    with pytest.raises(UnsupportedEvidenceError, match="dstack"):
        read_ratls(make_certificate(KEY, beside_ours))


def test_our_own_evidence_beside_others_is_held_to_its_claims() -> None:
    keep, other = FakeKeep(key=KEY), FakeKeep()
    accept = frozenset({Convention.KEEP_EVIDENCE, Convention.GRAMINE})
    extensions = {CMW_OID: cmw_extension(other.collection())} | GOOD[Convention.GRAMINE][1]
    presented = read_ratls(make_certificate(keep.key, extensions), accept=accept)
    assert "ratls.key" in failed_checks(judge_simulated(presented, accept))


def judge_simulated(presented: PresentedEvidence, accept: Conventions) -> PeerVerdict:
    policy = Policy(simulated=(SimulatedPolicy(measurements=(MEASUREMENT.hex(),)),))
    return verify_foreign(presented, policy, certificate_policy=CertificatePolicy(accept=accept), at=AT)


def test_presented_evidence_is_judged_by_the_policy_given_not_by_how_it_was_read() -> None:
    presented = read(Convention.GRAMINE, make_certificate(KEY, GOOD[Convention.GRAMINE][1]))
    assert failed_checks(judge(presented, frozenset({Convention.TCG_DICE}))) == ["ratls.convention"]


def test_a_duplicate_extension_is_refused() -> None:
    # Row 29; no library writes this, so the second one is cut in by hand.
    certificate = make_certificate(KEY, {"1.2.3.4": b"\x05\x00", "1.2.3.5": b"\x05\x00"})
    duplicate = certificate.replace(core.ObjectIdentifier("1.2.3.5").dump(), core.ObjectIdentifier("1.2.3.4").dump())
    with pytest.raises(MalformedEvidenceError, match="twice"):
        read_ratls(duplicate)


def test_a_certificate_without_evidence_is_refused() -> None:
    with pytest.raises(UnsupportedEvidenceError, match="no evidence by keep-evidence-v1"):
        read_ratls(make_certificate(KEY, {}))
    with pytest.raises(UnsupportedEvidenceError, match="no evidence by any convention"):
        read_ratls(make_certificate(KEY, {}), accept=frozenset())


def test_a_type_of_key_that_the_policy_does_not_name_is_refused() -> None:
    certificate = make_certificate(*GOOD[Convention.GRAMINE])
    presented = read_ratls(certificate, accept=frozenset({Convention.GRAMINE}))
    table = "[certificate]\naccept = ['gramine']\nkey_types = [{}]\n[sgx]\n"

    def failed(named: str) -> list[str]:
        verdict = verify_foreign(presented, parse_policy(table.format(named)), at=AT).verdict
        return [check.reason for check in verdict.failures if check.name == "ratls.key-type"]

    assert failed("'P-256', 'RSA'") == []
    assert failed("'P-384'") == ["the key is of type secp256r1, not P-384"]
    assert failed("'RSA'") == ["the key is of type secp256r1, not RSA of 3072 bits or more"]


def test_enarx_and_a3s_cannot_be_accepted_together() -> None:
    with pytest.raises(ValueError, match="same identifiers"):
        CertificatePolicy(accept=frozenset({Convention.ENARX, Convention.A3S}))


def test_identifiers_that_collide_are_read_as_what_was_named() -> None:
    key, extensions = GOOD[Convention.A3S]
    certificate = make_certificate(key, extensions)
    with pytest.raises(UnsupportedEvidenceError, match="Enarx without hardware"):
        read_ratls(certificate, accept=frozenset({Convention.ENARX}))


def test_a_policy_of_certificates_refuses_senseless_values() -> None:
    wrong_values: list[dict[str, Any]] = [
        {"accept": frozenset()},
        {"max_lifetime_hours": 0},
        {"clock_skew_seconds": 4000},
        {"key_types": frozenset()},
    ]
    for wrong in wrong_values:
        with pytest.raises(ValueError, match=f"certificate.{next(iter(wrong))}"):
            CertificatePolicy(**wrong)


@pytest.mark.parametrize(
    ("convention", "oid", "value", "named"),
    [
        (Convention.DSTACK, "1.3.6.1.4.1.62397.1.8", b"\x04\x00", "SCALE"),
        (Convention.COCOS_LEGACY, "2.99999.1.0", b"\x0a\x00", "go-tpm-tools"),
        (Convention.COCOS_LEGACY, "2.99999.1.1", b"\x0a\x00", "Azure"),
        (Convention.TCG_DICE, "2.23.133.5.4.9", cbor2.dumps(cbor2.CBORTag(60001, [b""])), "TDREPORT"),
        (Convention.TCG_DICE, "2.23.133.5.4.9", cbor2.dumps(cbor2.CBORTag(60002, [b""])), "legacy"),
        (Convention.TCG_DICE, "2.23.133.5.4.9", cbor2.dumps([b"", b""]), "no CBOR of tag 60000"),
        (Convention.GRAMINE, "0.6.9.42.840.113741.1337.6", b"\x02\0\0\0\0\0\0\0", "version 2"),
        (Convention.GRAMINE, "0.6.9.42.840.113741.1337.6", b"\x04\0\0\0\0\0\0\0", "TEE type 0x0"),
    ],
)
def test_forms_that_are_not_read_are_refused_by_name(
    convention: Convention, oid: str, value: bytes, named: str
) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=named):
        read(convention, make_certificate(KEY, {oid: value}))


def test_evidence_of_cocos_needs_the_nonce_that_was_sent() -> None:
    key, extensions = GOOD[Convention.COCOS_LEGACY]
    accept = frozenset({Convention.COCOS_LEGACY})
    with pytest.raises(UnsupportedEvidenceError, match="nonce"):
        read_ratls(make_certificate(key, extensions), accept=accept)
    presented = read_ratls(make_certificate(key, extensions), accept=accept, nonce=b"another")
    assert failed_checks(judge(presented, accept)) == ["stub.binding"]


@pytest.mark.parametrize(("algorithm", "name"), [(1, "sha256"), (7, "sha384"), (8, "sha512")])
def test_the_hashes_of_interoperable_ra_tls_are_known(algorithm: int, name: str) -> None:
    extension = {"2.23.133.5.4.9": dice_evidence(SPKI, algorithm=algorithm, name=name)}
    assert judge(read(Convention.TCG_DICE, make_certificate(KEY, extension)), frozenset({Convention.TCG_DICE})).accepted


def test_a_truncated_or_unknown_hash_of_the_key_is_refused() -> None:
    unknown = {"2.23.133.5.4.9": dice_evidence(SPKI, algorithm=2)}
    with pytest.raises(UnsupportedEvidenceError, match="algorithm 2"):
        read(Convention.TCG_DICE, make_certificate(KEY, unknown))
    confused = {"2.23.133.5.4.9": dice_evidence(SPKI, algorithm=8, name="sha256")}
    peer = judge(read(Convention.TCG_DICE, make_certificate(KEY, confused)), frozenset({Convention.TCG_DICE}))
    assert failed_checks(peer) == ["ratls.key"]


def test_the_type_of_an_enarx_key_must_be_that_of_its_endorsement() -> None:
    accept = frozenset({Convention.ENARX})
    report = snp_report(hashlib.sha384(SPKI).digest())
    certificate = make_certificate(KEY, {"1.3.6.1.4.1.58270.1.3": enarx_snp(report)})
    assert failed_checks(judge(read_ratls(certificate, accept=accept), accept)) == ["ratls.enarx-key"]
    quote = sgx_quote(hashlib.sha256(SPKI).digest())
    certificate = make_certificate(KEY, {"1.3.6.1.4.1.58270.1.2": enarx_sgx(quote)})
    assert judge(read_ratls(certificate, accept=accept), accept).accepted


@pytest.mark.parametrize(("bits", "accepted"), [(2048, False), (3072, True)])
def test_foreign_rsa_keys_need_3072_bits(bits: int, accepted: bool) -> None:
    key = rsa.generate_private_key(65537, bits)
    quote = sgx_quote(hashlib.sha256(spki_of(key)).digest())
    certificate = make_certificate(key, {"0.6.9.42.840.113741.1337.6": quote})
    peer = judge(read(Convention.GRAMINE, certificate), frozenset({Convention.GRAMINE}))
    assert failed_checks(peer) == ([] if accepted else ["ratls.key-type"])


def test_evidence_on_which_nothing_is_checked_is_refused() -> None:
    def nothing(evidence: Evidence, *, binding: Binding | None, at: datetime) -> Examination:
        return Examination(checks=(), facts={}, identity=None)

    class DemandsNothing(Policy, frozen=True, kw_only=True):
        def alternatives(self, kind: EvidenceKind) -> tuple[Any, ...]:
            return (object(),)

        def appraise(self, kind: EvidenceKind, facts: Any) -> tuple[Check, ...]:
            return ()

    policy = CertificatePolicy(accept=frozenset({Convention.GRAMINE}))
    presented = read(Convention.GRAMINE, make_certificate(KEY, GOOD[Convention.GRAMINE][1]))
    peer = verify_foreign(presented, DemandsNothing(), certificate_policy=policy, at=AT, examine=nothing)
    assert failed_checks(peer) == ["ratls.evidence"]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from(FOREIGN), st.binary(max_size=40), st.booleans())
def test_nothing_but_our_own_errors_comes_out_of_arbitrary_extensions(
    convention: Convention, tail: bytes, alone: bool
) -> None:
    key, extensions = GOOD[convention]
    oid = next(iter(extensions))
    value = tail if alone else extensions[oid][:12] + tail
    with contextlib.suppress(MalformedEvidenceError):
        assert not judge(
            read(convention, make_certificate(key, {**extensions, oid: value})), frozenset({convention})
        ).accepted


def test_verdicts_over_several_pieces_name_the_kind_of_the_first() -> None:
    accept = frozenset({Convention.GRAMINE, Convention.TCG_DICE})
    both = GOOD[Convention.GRAMINE][1] | GOOD[Convention.TCG_DICE][1]
    verdict: Verdict = judge(read_ratls(make_certificate(KEY, both), accept=accept), accept).verdict
    assert verdict.kind is EvidenceKind.SGX
    assert [check.name for check in verdict.checks].count("stub.binding") == 2
