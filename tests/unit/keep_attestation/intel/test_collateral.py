"""Whether collateral is verified before it decides: what is old, foreign, changed, unsigned or revoking refuses."""

from __future__ import annotations

import json
import ssl
from datetime import timedelta

import msgspec
import pytest
from asn1crypto import crl as asn1_crl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.intel import verification
from keep_attestation.intel.dcap import Appraisal
from keep_attestation.intel.tcb_status import TcbStatus
from tests.unit.keep_attestation.intel.forge import FMSPC, NOW, PPID, Authority, Forge, Tee, make_authority, make_crl
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine, failures, quote, refusal

STRANGER = ec.generate_private_key(ec.SECP256R1())


# Collateral: missing, foreign, old, from the future (attacks 32 and 35).


def test_without_collateral_it_is_refused_and_the_reason_says_where_to_get_it(tee: Tee) -> None:
    reasons = failures(examine(FORGE.evidence(tee, quote(tee), None), anchors=FORGE.anchors))
    assert "00806F050000" in reasons[f"{tee}.collateral"]
    assert "api.trustedservices.intel.com" in reasons[f"{tee}.collateral"]


def test_collateral_of_another_processor_family_is_refused(tee: Tee) -> None:
    collateral = FORGE.collateral(tee, fmspc=bytes.fromhex("00906ea10000"))
    assert "FMSPC 00906ea10000" in refusal(tee, collateral=collateral)[f"{tee}.collateral"]


def test_collateral_of_the_other_tee_is_refused(tee: Tee) -> None:
    other: Tee = "sgx" if tee == "tdx" else "tdx"
    assert "it is for" in refusal(tee, collateral=FORGE.collateral(other))[f"{tee}.collateral"]


def test_the_identity_of_the_other_quoting_enclave_is_refused(tee: Tee) -> None:
    collateral = FORGE.collateral(tee, qe_id="QE" if tee == "tdx" else "TD_QE")
    assert "it is for" in refusal(tee, collateral=collateral)[f"{tee}.collateral"]


def test_expired_collateral_is_refused_with_the_dates(tee: Tee) -> None:
    at = FORGE.next_update + timedelta(seconds=1)
    reasons = failures(examine(FORGE.good(tee), anchors=FORGE.anchors, at=at))
    assert "expired at 2026-07-12" in reasons[f"{tee}.collateral"]


def test_collateral_from_the_future_is_refused_because_the_clock_must_be_wrong(tee: Tee) -> None:
    at = FORGE.issue_date - timedelta(seconds=1)
    reasons = failures(examine(FORGE.good(tee), anchors=FORGE.anchors, at=at))
    assert "from the future" in reasons[f"{tee}.collateral"]
    assert "clock" in reasons[f"{tee}.collateral"]


@pytest.mark.parametrize("member", ["tcb_info", "qe_identity"])
def test_changed_collateral_is_refused(tee: Tee, member: str) -> None:
    bundle = json.loads(FORGE.collateral(tee, status="OutOfDate"))
    text = bundle[member].replace("OutOfDate", "UpToDate") if member == "tcb_info" else bundle[member] + " "
    changed = json.dumps(bundle | {member: text}).encode()
    assert f"{tee}.tcb" in refusal(tee, collateral=changed)


@pytest.mark.parametrize("member", ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"])
@pytest.mark.parametrize("changed", [FORGE.root, FORGE.pck], ids=["the root", "a foreign one"])
def test_a_chain_with_what_the_root_did_not_issue_is_refused(tee: Tee, member: str, changed: Authority) -> None:
    bundle = json.loads(FORGE.collateral(tee))
    der = changed.der[:-1] + bytes([changed.der[-1] ^ 1]) if changed is FORGE.root else changed.der
    copy = ssl.DER_cert_to_PEM_cert(der)
    text = json.dumps(bundle | {member: bundle[member].replace(FORGE.root.pem.decode(), copy)}).encode()
    assert "in its chains" in refusal(tee, collateral=text)[f"{tee}.collateral"]


# Attack 1 (CVE-2026-22696): a QE identity that Intel did not sign admits a forged quoting enclave.


def test_a_qe_identity_that_intel_did_not_sign_is_refused(tee: Tee) -> None:
    forged = FORGE.collateral(tee, qe_signer=b"\x66" * 32, qe_identity_key=STRANGER)
    assert f"{tee}.tcb" in refusal(tee, raw=quote(tee, qe_signer=b"\x66" * 32), collateral=forged)


def test_a_quoting_enclave_of_another_signer_is_refused(tee: Tee) -> None:
    assert f"{tee}.tcb" in refusal(tee, raw=quote(tee, qe_signer=b"\x66" * 32))


def test_a_quoting_enclave_in_debug_mode_is_refused(tee: Tee) -> None:
    assert f"{tee}.tcb" in refusal(tee, raw=quote(tee, qe_attributes=0x13))


def test_tcb_info_that_intel_did_not_sign_is_refused(tee: Tee) -> None:
    assert f"{tee}.tcb" in refusal(tee, collateral=FORGE.collateral(tee, tcb_info_key=STRANGER))


# Attack 2 (GHSA-6q6c-vvf9-fj3w): a short list of TCB components must not be compared as far as it goes.


@pytest.mark.parametrize("components", [0, 1, 15])
def test_a_tcb_level_with_fewer_than_16_components_is_refused(tee: Tee, components: int) -> None:
    assert f"{tee}.tcb" in refusal(tee, collateral=FORGE.collateral(tee, components=components))


# Attack 18: revocation.


def test_a_revoked_pck_certificate_is_refused(tee: Tee) -> None:
    collateral = FORGE.collateral(tee, revoked_pck=[FORGE.pck.certificate.serial_number])
    assert f"{tee}.tcb" in refusal(tee, collateral=collateral)


def test_a_revoked_intermediate_is_refused(tee: Tee) -> None:
    collateral = FORGE.collateral(tee, revoked_cas=[FORGE.pck_ca.certificate.serial_number])
    assert f"{tee}.tcb" in refusal(tee, collateral=collateral)


def test_crls_of_a_foreign_issuer_are_refused(tee: Tee) -> None:
    foreign = json.loads(Forge().collateral(tee))
    for member in ("pck_crl", "root_ca_crl"):
        collateral = FORGE.collateral(tee, changes={member: foreign[member]})
        assert f"{tee}.tcb" in refusal(tee, collateral=collateral), member


def test_an_expired_crl_is_refused(tee: Tee) -> None:
    old = make_crl(FORGE.pck_ca, this_update=NOW - timedelta(days=60), next_update=NOW - timedelta(days=30))
    collateral = FORGE.collateral(tee, changes={"pck_crl": old.hex()})
    assert "expired at" in refusal(tee, collateral=collateral)[f"{tee}.collateral"]


def test_a_crl_without_next_update_is_refused(tee: Tee) -> None:
    parsed = asn1_crl.CertificateList.load(current_crl(FORGE.pck_ca))
    body = asn1_crl.TbsCertList(
        {name: parsed["tbs_cert_list"][name] for name in ("version", "signature", "issuer", "this_update")}
    )
    endless = asn1_crl.CertificateList(
        {
            "tbs_cert_list": body,
            "signature_algorithm": parsed["signature_algorithm"],
            "signature": FORGE.pck_ca.key.sign(body.dump(), ec.ECDSA(hashes.SHA256())),
        }
    )
    with pytest.raises(MalformedEvidenceError, match="no nextUpdate"):
        refusal(tee, collateral=FORGE.collateral(tee, changes={"pck_crl": endless.dump().hex()}))


def current_crl(issuer: Authority, *revoked: int) -> bytes:
    return make_crl(issuer, revoked, this_update=FORGE.issue_date, next_update=FORGE.next_update)


def with_crl(tee: Tee, crl: bytes) -> dict[str, str]:
    evidence = FORGE.good(tee)
    endorsements = msgspec.structs.replace(evidence.endorsements, crls=(crl,))
    evidence = msgspec.structs.replace(evidence, endorsements=endorsements)
    return failures(examine(evidence, anchors=FORGE.anchors))


def test_a_crl_given_beside_the_collateral_is_honoured(tee: Tee) -> None:
    serial = FORGE.pck.certificate.serial_number
    assert with_crl(tee, current_crl(FORGE.pck_ca, 1)) == {}
    assert f"{serial:#x}" in with_crl(tee, current_crl(FORGE.pck_ca, serial))[f"{tee}.revocation"]
    foreign = make_authority("Someone else")
    assert "no CA of the PCK chain" in with_crl(tee, current_crl(foreign))[f"{tee}.revocation"]


# TCB (attack 11).


def test_a_revoked_tcb_level_is_refused_whatever_the_policy(tee: Tee) -> None:
    assert f"{tee}.tcb" in refusal(tee, collateral=FORGE.collateral(tee, status="Revoked"))


def appraised_as(monkeypatch: pytest.MonkeyPatch, tee: Tee, appraisal: Appraisal) -> str | None:
    """The reason of refusal if the verification library says `appraisal`."""
    monkeypatch.setattr(verification, "appraise", lambda *_: appraisal)
    return refusal(tee).get(f"{tee}.tcb")


def test_what_the_library_lets_pass_is_still_refused_if_revoked_or_of_another_platform(
    monkeypatch: pytest.MonkeyPatch, tee: Tee
) -> None:
    good = Appraisal(status=TcbStatus.UP_TO_DATE, advisories=(), ppid=PPID, fmspc=FMSPC)
    assert appraised_as(monkeypatch, tee, good) is None
    revoked = appraised_as(monkeypatch, tee, msgspec.structs.replace(good, status=TcbStatus.REVOKED))
    assert revoked is not None
    assert "revoked" in revoked
    for other in ({"ppid": bytes(16)}, {"fmspc": bytes(6)}):
        reason = appraised_as(monkeypatch, tee, msgspec.structs.replace(good, **other))
        assert reason is not None
        assert "two ways" in reason


def test_a_tcb_status_that_nobody_here_knows_is_refused(tee: Tee) -> None:
    assert f"{tee}.tcb" in refusal(tee, collateral=FORGE.collateral(tee, status="Splendid"))


def test_status_and_advisories_are_facts_for_the_policy(tee: Tee) -> None:
    collateral = FORGE.collateral(tee, status="OutOfDate", advisories=("INTEL-SA-00001",))
    examination = examine(FORGE.evidence(tee, quote(tee), collateral), anchors=FORGE.anchors)
    assert failures(examination) == {}
    assert examination.facts["tcb_status"] == "OutOfDate"
    assert examination.facts["advisories"] == ["INTEL-SA-00001"]


# Hostile input (attack 29).


@pytest.mark.parametrize(
    "collateral",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"tcb_info": "[" * 50_000}).encode(),
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"pck_crl": ""}).encode(),
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"pck_crl": "zz"}).encode(),
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"qe_identity_signature": "zz"}).encode(),
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"tcb_info_issuer_chain": "no PEM"}).encode(),
        json.dumps(json.loads(FORGE.collateral("tdx")) | {"tcb_info_issuer_chain": "\ud800"}).encode(),
        bytes(600 * 1024),
    ],
)
def test_malformed_collateral_raises_nothing_but_our_error(collateral: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        examine(FORGE.evidence("tdx", quote("tdx"), collateral), anchors=FORGE.anchors)


@pytest.mark.parametrize(
    "date", ["2026-06-12T12:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "yesterday"]
)
def test_a_date_without_zone_or_out_of_range_is_malformed(tee: Tee, date: str) -> None:
    bundle = json.loads(FORGE.collateral(tee))
    for member in ("issueDate", "nextUpdate"):
        identity = json.dumps(json.loads(bundle["qe_identity"]) | {member: date})
        with pytest.raises(MalformedEvidenceError):
            refusal(tee, collateral=json.dumps(bundle | {"qe_identity": identity}).encode())


def test_chains_of_many_certificates_are_refused_unread(tee: Tee) -> None:
    chain = FORGE.pck.pem + FORGE.pck_ca.pem * 7 + FORGE.root.pem
    with pytest.raises(MalformedEvidenceError, match="9 certificates"):
        refusal(tee, raw=quote(tee, certification=(5, chain)))
