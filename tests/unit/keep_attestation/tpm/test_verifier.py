"""Whether a quote is believed only from a key that cannot lie, over exactly the values given, and for its binding."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import cbor2
import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.evidence import Binding
from keep_attestation.tpm.bundle import decode_bundle
from keep_attestation.tpm.structures import ObjectAttribute, SigningScheme
from keep_attestation.tpm.verifier import examine_tpm
from keep_attestation.verdict import Examination, Outcome
from keep_protocol.tpm_evidence import PcrValues
from tests.unit.keep_attestation.nitro.forge import Authority, issue
from tests.unit.keep_attestation.tpm.forge import (
    AK_ATTRIBUTES,
    AT,
    BINDING,
    NONCE,
    PCRS,
    SHA256,
    ForgedTpm,
    sized,
    tpm_evidence,
    u16,
    u32,
)

TPM = ForgedTpm()
ROOT = issue("TPM maker", ca=True)


def examined(body: bytes, **arguments: Any) -> Examination:
    given = {name: arguments.pop(name) for name in ("certificates", "crls", "log") if name in arguments}
    defaults: dict[str, Any] = {"binding": BINDING, "at": AT, "anchors": {ROOT.sha256: "maker"}}
    return examine_tpm(tpm_evidence(body, **given), **(defaults | arguments))


def refusals(examination: Examination) -> dict[str, str]:
    return {check.name: check.reason for check in examination.checks if check.outcome is Outcome.FAIL}


AIK_USAGE = "2.23.133.8.3"
"""tcg-kp-AIKCertificate."""


def certified(tpm: ForgedTpm, issuer: Authority = ROOT, **arguments: Any) -> Authority:
    assert isinstance(tpm.key, ec.EllipticCurvePrivateKey)
    return issuer.issue("attestation key", tpm.key, **{"ca": False, "usages": [AIK_USAGE], **arguments})


RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "tpm",
    [
        TPM,
        ForgedTpm(ec.generate_private_key(ec.SECP384R1()), hash=HashAlgorithm.SHA384),
        ForgedTpm(RSA_KEY, SigningScheme.RSASSA),
        ForgedTpm(RSA_KEY, SigningScheme.RSAPSS),
    ],
    ids=["P-256", "P-384", "RSASSA", "RSAPSS"],
)
def test_a_quote_by_a_restricted_key_passes_every_check(tpm: ForgedTpm) -> None:
    assert not refusals(examined(tpm.bundle()))


def test_the_pcr_digest_is_of_the_signing_hash_whatever_the_bank() -> None:
    banks: PcrValues = {HashAlgorithm.SHA1: {0: bytes(20)}, HashAlgorithm.SHA384: {0: bytes(48)}}
    assert not refusals(examined(TPM.bundle(pcrs=banks)))
    of_the_bank = TPM.attest(banks, digest=HashAlgorithm.SHA384.digest(bytes(68)))
    assert "tpm.pcrs" in refusals(examined(TPM.bundle(pcrs=banks, message=of_the_bank)))


def test_a_value_that_the_quote_does_not_cover_is_refused() -> None:
    more = {SHA256: PCRS | {8: bytes(32)}}
    reasons = refusals(examined(TPM.bundle(pcrs=more, message=TPM.attest({SHA256: PCRS}))))
    assert "8" in reasons["tpm.pcrs"]
    other_bank = {SHA256: PCRS, HashAlgorithm.SHA384: {0: bytes(48)}}
    assert "sha384:0" in refusals(examined(TPM.bundle(pcrs=other_bank, message=TPM.attest({SHA256: PCRS}))))["tpm.pcrs"]


def test_a_quoted_register_without_a_value_is_refused() -> None:
    fewer = {SHA256: {0: PCRS[0]}}
    assert "tpm.pcrs" in refusals(examined(TPM.bundle(pcrs=fewer, message=TPM.attest({SHA256: PCRS}))))


def test_a_changed_value_is_refused() -> None:
    changed = {SHA256: PCRS | {7: bytes(32)}}
    assert "hash to" in refusals(examined(TPM.bundle(pcrs=changed, message=TPM.attest({SHA256: PCRS}))))["tpm.pcrs"]


def test_values_of_other_sizes_whose_concatenation_is_the_same_are_refused() -> None:
    shifted = {SHA256: {0: PCRS[0] + PCRS[4][:1], 4: PCRS[4][1:], 7: PCRS[7]}}
    with pytest.raises(MalformedEvidenceError, match="33 bytes"):
        examined(TPM.bundle(pcrs=shifted, message=TPM.attest({SHA256: PCRS})))


def test_a_quote_over_no_register_is_refused() -> None:
    assert "no PCR" in refusals(examined(TPM.bundle(pcrs={})))["tpm.pcrs"]


@pytest.mark.parametrize(
    "attributes",
    [
        *(AK_ATTRIBUTES & ~missing for missing in (ObjectAttribute.RESTRICTED, ObjectAttribute.SIGN)),
        *(AK_ATTRIBUTES & ~missing for missing in (ObjectAttribute.FIXED_TPM, ObjectAttribute.FIXED_PARENT)),
        AK_ATTRIBUTES & ~ObjectAttribute.SENSITIVE_DATA_ORIGIN,
        AK_ATTRIBUTES | ObjectAttribute.DECRYPT,
    ],
    ids=hex,
)
def test_a_key_that_can_sign_what_no_tpm_wrote_is_refused(attributes: ObjectAttribute) -> None:
    assert "tpm.ak" in refusals(examined(ForgedTpm(TPM.key, attributes=attributes).bundle()))


def test_a_key_without_a_fixed_scheme_is_refused() -> None:
    assert "fixed signing scheme" in refusals(examined(TPM.bundle(ak=TPM.public(scheme=0x10))))["tpm.ak"]


def test_a_signature_of_another_scheme_or_hash_than_the_key_s_is_refused() -> None:
    message = TPM.attest({SHA256: PCRS})
    other = ForgedTpm(TPM.key, hash=HashAlgorithm.SHA384).sign(message)
    assert "scheme" in refusals(examined(TPM.bundle(message=message, signature=other)))["tpm.signature"]
    pss, pkcs = ForgedTpm(RSA_KEY, SigningScheme.RSAPSS), ForgedTpm(RSA_KEY, SigningScheme.RSASSA)
    assert "scheme" in refusals(examined(pkcs.bundle(message=message, signature=pss.sign(message))))["tpm.signature"]


def test_a_quote_signed_by_another_key_is_refused() -> None:
    assert "tpm.signature" in refusals(examined(TPM.bundle(ak=ForgedTpm().public())))


def test_a_signature_of_another_type_of_key_is_refused() -> None:
    message = TPM.attest({SHA256: PCRS})
    rsa_public = ForgedTpm(RSA_KEY, SigningScheme.ECDSA).public()
    assert "tpm.signature" in refusals(examined(TPM.bundle(message=message, ak=rsa_public)))


@pytest.mark.parametrize("expected", [NONCE + b"\x00", NONCE[:-1], b"", bytes(32)])
def test_other_qualifying_data_are_refused(expected: bytes) -> None:
    assert "tpm.binding" in refusals(examined(TPM.bundle(), binding=Binding(qualifying_data=expected)))


def test_a_binding_for_another_kind_is_refused() -> None:
    assert "tpm.binding" in refusals(examined(TPM.bundle(), binding=Binding(report_data=bytes(64))))


def test_without_a_binding_nothing_is_claimed_of_freshness() -> None:
    examination = examined(TPM.bundle(), binding=None)
    assert [check.outcome for check in examination.checks if check.name == "tpm.binding"] == [Outcome.NOTE]


def test_a_certified_key_yields_the_pinned_root_s_name() -> None:
    body = TPM.bundle(ak_certificate=certified(TPM).der, intermediates=[ROOT.der])
    assert examined(body).facts["ak_root"] == "maker"
    assert not refusals(examined(body))
    by_endorsements = TPM.bundle(ak_certificate=certified(TPM).der)
    assert examined(by_endorsements, certificates=(ROOT.der,)).facts["ak_root"] == "maker"


def test_a_root_that_is_not_pinned_is_named_by_its_hash_and_not_by_a_maker() -> None:
    body = TPM.bundle(ak_certificate=certified(TPM).der, intermediates=[ROOT.der])
    examination = examine_tpm(tpm_evidence(body), binding=BINDING, at=AT)
    assert examination.facts["ak_root"] == ROOT.sha256


def test_a_self_made_root_of_the_same_name_is_not_the_pinned_one() -> None:
    impostor = issue("TPM maker", ca=True)
    body = TPM.bundle(ak_certificate=certified(TPM, impostor).der, intermediates=[impostor.der])
    assert examined(body).facts["ak_root"] == impostor.sha256
    both = TPM.bundle(ak_certificate=certified(TPM, impostor).der, intermediates=[impostor.der, ROOT.der])
    assert examined(both).facts["ak_root"] != "maker"


@pytest.mark.parametrize("usages", [[], ["1.3.6.1.5.5.7.3.1"], ["2.23.133.8.1"]])
def test_a_key_that_a_root_certified_for_something_else_makes_no_quotes(usages: list[str]) -> None:
    server = certified(TPM, usages=usages)
    body = TPM.bundle(ak_certificate=server.der, intermediates=[ROOT.der])
    other = examine_tpm(tpm_evidence(body), binding=BINDING, at=AT)
    assert "2.23.133.8.3" in refusals(other)["tpm.ak-certificate"]
    assert other.facts["ak_root"] is None
    # A pinned root is a TPM maker's or a cloud's, and Google's certificates say less.
    assert "tpm.ak-certificate" not in refusals(examined(body))


def test_a_certificate_for_another_key_is_refused() -> None:
    body = TPM.bundle(ak_certificate=certified(ForgedTpm()).der, intermediates=[ROOT.der])
    assert "another key" in refusals(examined(body))["tpm.ak-certificate"]
    assert examined(body).facts["ak_root"] is None


def test_a_certificate_that_leads_to_no_root_is_refused() -> None:
    assert "no root" in refusals(examined(TPM.bundle(ak_certificate=certified(TPM).der)))["tpm.ak-certificate"]


def test_an_expired_certificate_is_refused_with_its_dates() -> None:
    body = TPM.bundle(ak_certificate=certified(TPM).der, intermediates=[ROOT.der])
    reasons = refusals(examined(body, at=AT + timedelta(days=1)))
    assert "2026-06-01T14:00:00Z" in reasons["tpm.ak-certificate"]


def test_revoked_keys_and_lists_of_strangers_are_refused() -> None:
    certificate = certified(TPM, serial=77)
    body = TPM.bundle(ak_certificate=certificate.der, intermediates=[ROOT.der])
    assert examined(body, crls=(ROOT.crl(),)).facts["revocation_checked"] is True
    assert "revoked" in refusals(examined(body, crls=(ROOT.crl(77),)))["tpm.revocation"]
    stranger = issue("somebody", ca=True).crl()
    assert "tpm.revocation" in refusals(examined(body, crls=(stranger,)))
    assert "tpm.revocation" in refusals(examined(TPM.bundle(), crls=(stranger,)))


def test_an_endorsement_certificate_names_the_maker_where_its_issuers_came() -> None:
    ek = ROOT.issue("endorsement key", ca=False).der
    assert examined(TPM.bundle(ek_certificate=ek)).facts["ek_root"] is None
    assert examined(TPM.bundle(ek_certificate=ek), certificates=(ROOT.der,)).facts["ek_root"] == "maker"


def test_facts_of_a_failed_examination_claim_no_trust() -> None:
    weak = ForgedTpm(TPM.key, attributes=AK_ATTRIBUTES & ~ObjectAttribute.RESTRICTED)
    body = weak.bundle(ak_certificate=certified(TPM).der, intermediates=[ROOT.der])
    assert examined(body).facts["ak_root"] is None


def test_a_boot_log_must_replay_to_the_quoted_registers() -> None:
    digest = SHA256.digest(b"boot loader")
    log = agile_log(0, digest)
    extended = SHA256.digest(bytes(32) + digest)
    examination = examined(TPM.bundle(pcrs={SHA256: {0: extended}}), log=log)
    assert not refusals(examination)
    assert examination.facts["log_replayed"] is True
    mismatch = examined(TPM.bundle(pcrs={SHA256: {0: bytes(32)}}), log=log)
    assert "replays to" in refusals(mismatch)["tpm.log"]
    assert mismatch.facts["log_replayed"] is False
    assert "explains nothing" in refusals(examined(TPM.bundle(pcrs={SHA256: {4: bytes(32)}}), log=log))["tpm.log"]


def agile_log(register: int, digest: bytes) -> bytes:
    """One event in the crypto-agile format, with a SHA-256 bank alone."""
    banks = (1).to_bytes(4, "little") + (0x0B).to_bytes(2, "little") + (32).to_bytes(2, "little")
    specification = b"Spec ID Event03\x00" + bytes(4) + bytes([0, 2, 0, 2]) + banks + b"\x00"
    header = bytes(4) + (3).to_bytes(4, "little") + bytes(20) + len(specification).to_bytes(4, "little") + specification
    event = register.to_bytes(4, "little") + (0x0D).to_bytes(4, "little") + (1).to_bytes(4, "little")
    return header + event + (0x0B).to_bytes(2, "little") + digest + bytes(4)


def test_the_identity_is_of_the_signed_bytes_alone() -> None:
    message = TPM.attest({SHA256: PCRS})
    first = examined(TPM.bundle(message=message))
    second = examined(TPM.bundle(message=message, signature=TPM.sign(message)))
    assert first.identity == second.identity


@pytest.mark.parametrize(
    "entries",
    [
        [],
        {},
        {1: b"", 2: b"x", 3: b"x", 4: {}},
        {1: b"x", 2: b"x", 3: b"x"},
        {1: b"x", 2: b"x", 3: b"x", 4: {11: []}},
        {1: b"x", 2: b"x", 3: b"x", 4: {11: {24: bytes(32)}}},
        {1: b"x", 2: b"x", 3: b"x", 4: {11: {0: "text"}}},
        {1: b"x", 2: b"x", 3: b"x", 4: {18: {0: bytes(32)}}},
        {1: b"x", 2: b"x", 3: b"x", 4: {}, 6: []},
        {1: b"x", 2: b"x", 3: b"x", 4: {}, 6: [1]},
        {1: b"x", 2: b"x", 3: b"x", 4: {}, 6: [b"x"] * 9},
        {1: b"x", 2: b"x", 3: b"x", 4: {}, 5: None},
        {1: b"x", 2: b"x", 3: b"x", 4: {}, 8: b"x"},
        {2: b"x", 1: b"x", 3: b"x", 4: {}},
        {True: b"x", 2: b"x", 3: b"x", 4: {}},
    ],
    ids=str,
)
def test_a_bundle_of_another_form_is_refused(entries: Any) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_bundle(cbor2.dumps(entries))


def test_a_certificate_that_cannot_be_read_is_malformed_evidence() -> None:
    with pytest.raises(MalformedEvidenceError):
        examined(TPM.bundle(ak_certificate=b"0\x00"))


def test_an_unknown_type_of_key_is_refused_by_its_number() -> None:
    with pytest.raises(UnsupportedEvidenceError, match="0x0008"):
        examined(TPM.bundle(ak=u16(8) + u16(SHA256) + u32(0) + sized(b"")))


def test_a_google_certificate_names_its_project_and_instance() -> None:
    assert isinstance(TPM.key, ec.EllipticCurvePrivateKey)
    parts = [
        core.UTF8String("zone"),
        core.Integer(1),
        core.UTF8String("project"),
        core.Integer(2),
        core.UTF8String("vm"),
    ]
    content = b"".join(part.dump() for part in parts)
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21"), b"\x30" + bytes([len(content)]) + content
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ROOT.certificate.subject)
        .public_key(TPM.key.public_key())
        .serial_number(5)
        .not_valid_before(AT - timedelta(days=1))
        .not_valid_after(AT + timedelta(days=1))
        .add_extension(extension, critical=False)
        .sign(ROOT.key, hashes.SHA256())
    )
    der = Authority(certificate, TPM.key).der
    facts = examined(TPM.bundle(ak_certificate=der, intermediates=[ROOT.der])).facts
    assert (facts["google_project"], facts["google_zone"], facts["google_instance"]) == ("project", "zone", "vm")
