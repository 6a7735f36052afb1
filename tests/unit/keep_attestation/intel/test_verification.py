"""Whether each link from quote to pinned root is checked: evidence with one flaw is refused for that flaw."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding
from keep_attestation.intel.quote import parse_quote
from keep_attestation.verdict import Freshness
from tests.unit.keep_attestation.intel.forge import (
    NOW,
    Authority,
    Forge,
    Tee,
    enclave_report,
    make_authority,
    pck_extension,
    td_report,
)
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine, failures, names, quote, refusal

STRANGER = ec.generate_private_key(ec.SECP256R1())
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


# What must pass, or nothing below says anything.


def test_good_evidence_passes_every_check_under_its_own_root(tee: Tee) -> None:
    examination = examine(FORGE.good(tee), anchors=FORGE.anchors)
    assert failures(examination) == {}
    steps = ("pck_chain", "qe_signature", "attestation_key", "signature", "collateral", "tcb", "binding")
    assert names(examination) == [f"{tee}.{step}" for step in steps]
    assert examination.facts["tcb_status"] == "UpToDate"
    assert examination.facts["revocation_checked"] is True
    assert examination.facts["ppid"] == bytes(range(16)).hex()
    assert examination.facts["collateral_age_days"] == 3
    assert examination.collateral.not_before == FORGE.issue_date
    assert examination.collateral.not_after == FORGE.next_update
    assert examination.collateral.evaluation_number == 18


# Root and chain (attack 17: a root of the same name, a test root, another certificate as root).


def test_the_same_evidence_is_refused_by_the_production_anchors(tee: Tee) -> None:
    examination = examine(FORGE.good(tee))
    assert "untrusted root" in failures(examination)[f"{tee}.pck_chain"]
    assert "tcb_status" not in examination.facts


def test_a_root_of_the_same_name_with_another_key_is_refused(tee: Tee) -> None:
    imposter = Forge()
    assert "untrusted root" in refusal(tee, forge=imposter)[f"{tee}.pck_chain"]


def test_a_chain_under_the_true_root_that_another_key_signed_is_refused(tee: Tee) -> None:
    chain = Forge().pck.pem + FORGE.pck_ca.pem + FORGE.root.pem
    assert "signature" in refusal(tee, raw=quote(tee, certification=(5, chain)))[f"{tee}.pck_chain"]


def test_the_true_root_beside_a_chain_that_does_not_lead_to_it_is_refused(tee: Tee) -> None:
    chain = FORGE.pck.pem + FORGE.root.pem
    assert "not in the quote" in refusal(tee, raw=quote(tee, certification=(5, chain)))[f"{tee}.pck_chain"]


def test_a_ca_that_signs_qe_reports_itself_is_refused(tee: Tee) -> None:
    raw = quote(tee, certification=(5, FORGE.pck_ca.pem + FORGE.root.pem), qe_key=FORGE.pck_ca.key)
    assert "is a CA" in refusal(tee, raw=raw)[f"{tee}.pck_chain"]


def test_a_chain_without_a_pck_ca_is_refused(tee: Tee) -> None:
    leaf = make_authority("Intel SGX PCK Certificate", FORGE.root, ca=False, extension=pck_extension())
    raw = quote(tee, certification=(5, leaf.pem + FORGE.root.pem), qe_key=leaf.key)
    assert "2 certificates" in refusal(tee, raw=raw)[f"{tee}.pck_chain"]


def test_a_root_certificate_around_the_pinned_key_that_the_key_did_not_sign_is_refused(tee: Tee) -> None:
    stranger = Authority(STRANGER, FORGE.root.certificate)
    root = make_authority("Intel SGX Root CA", stranger, key=FORGE.root.key)
    raw = quote(tee, certification=(5, FORGE.pck.pem + FORGE.pck_ca.pem + root.pem))
    assert "signature" in refusal(tee, raw=raw)[f"{tee}.pck_chain"]


def test_a_leaf_that_issues_leaves_is_refused(tee: Tee) -> None:
    leaf = make_authority("Intel SGX PCK Certificate", FORGE.pck, ca=False, extension=pck_extension())
    raw = quote(tee, certification=(5, leaf.pem + FORGE.pck_chain()), qe_key=leaf.key)
    assert "is no CA" in refusal(tee, raw=raw)[f"{tee}.pck_chain"]


@pytest.mark.parametrize("days", [-500, 500])
def test_a_pck_certificate_outside_its_validity_is_refused_with_the_dates(tee: Tee, days: int) -> None:
    at = NOW + timedelta(days=days)
    reasons = failures(examine(FORGE.good(tee), anchors=FORGE.anchors, at=at))
    assert f"not at {at:%Y-%m-%d}" in reasons[f"{tee}.pck_chain"]


def test_a_leaf_without_intel_s_extension_is_no_pck_certificate(tee: Tee) -> None:
    leaf = make_authority("Intel SGX PCK Certificate", FORGE.pck_ca, ca=False)
    raw = quote(tee, certification=(5, leaf.pem + FORGE.pck_ca.pem + FORGE.root.pem), qe_key=leaf.key)
    with pytest.raises(MalformedEvidenceError, match="extension"):
        refusal(tee, raw=raw)


def test_a_pck_key_on_another_curve_is_refused(tee: Tee) -> None:
    leaf = make_authority(
        "Intel SGX PCK Certificate", FORGE.pck_ca, ca=False, extension=pck_extension(), curve=ec.SECP384R1()
    )
    raw = quote(tee, certification=(5, leaf.pem + FORGE.pck_ca.pem + FORGE.root.pem))
    assert "P-256" in refusal(tee, raw=raw)[f"{tee}.qe_signature"]


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 7])
def test_a_quote_without_a_pck_chain_is_refused_by_the_type_of_what_it_has(tee: Tee, kind: int) -> None:
    assert f"data type {kind}" in refusal(tee, raw=quote(tee, certification=(kind, b"")))[f"{tee}.pck_chain"]


# The three signatures.


def test_a_qe_report_that_another_key_signed_is_refused(tee: Tee) -> None:
    assert list(refusal(tee, raw=quote(tee, qe_key=STRANGER))) == [f"{tee}.qe_signature"]


def test_a_qe_report_that_vouches_for_another_key_is_refused(tee: Tee) -> None:
    assert list(refusal(tee, raw=quote(tee, qe_report_data=bytes(64)))) == [f"{tee}.attestation_key"]


def test_a_hash_of_the_key_followed_by_anything_but_zeros_is_refused(tee: Tee) -> None:
    bound = parse_quote(quote(tee)).qe_report.report_data
    raw = quote(tee, qe_report_data=bound[:63] + b"\x01")
    assert list(refusal(tee, raw=raw)) == [f"{tee}.attestation_key"]


def test_a_quote_that_another_key_signed_is_refused(tee: Tee) -> None:
    assert list(refusal(tee, raw=quote(tee, quote_key=STRANGER))) == [f"{tee}.signature"]


def test_after_a_failed_signature_nothing_is_said_of_the_tcb(tee: Tee) -> None:
    evidence = FORGE.evidence(tee, quote(tee, quote_key=STRANGER), FORGE.collateral(tee))
    examination = examine(evidence, anchors=FORGE.anchors)
    assert not {f"{tee}.collateral", f"{tee}.tcb"} & set(names(examination))


# Attack 28: the signature is malleable, what is not signed identifies nothing.


def test_a_mirrored_signature_is_still_the_same_quote(tee: Tee) -> None:
    raw = quote(tee)
    at = len(parse_quote(raw).signed) + 4 + 32
    s = int.from_bytes(raw[at : at + 32], "big")
    mirrored = raw[:at] + (P256_ORDER - s).to_bytes(32, "big") + raw[at + 32 :]
    first, second = (
        examine(FORGE.evidence(tee, body, FORGE.collateral(tee)), anchors=FORGE.anchors) for body in (raw, mirrored)
    )
    assert failures(first) == failures(second) == {}
    assert first.identity == second.identity


def test_every_changed_byte_of_the_signed_part_is_refused(tee: Tee) -> None:
    raw, collateral = quote(tee), FORGE.collateral(tee)
    for offset in range(0, len(parse_quote(raw).signed), 5):
        changed = raw[:offset] + bytes([raw[offset] ^ 0x40]) + raw[offset + 1 :]
        try:
            reasons = failures(examine(FORGE.evidence(tee, changed, collateral), anchors=FORGE.anchors))
        except MalformedEvidenceError:
            continue
        assert f"{tee}.signature" in reasons, offset


# Attack 8 and 26: debug.


def test_a_debuggable_guest_is_refused(tee: Tee) -> None:
    body = td_report(td_attributes=1 << 28 | 1) if tee == "tdx" else enclave_report(attributes=0x07)
    raw = FORGE.quote(body, version=4 if tee == "tdx" else 3)
    examination = examine(FORGE.evidence(tee, raw, FORGE.collateral(tee)), anchors=FORGE.anchors)
    assert "Debug" in failures(examination)[f"{tee}.tcb"]
    assert examination.facts["debug"] is True


# Binding (attack 34: all 64 bytes).

DATA = bytes(range(64))


def bound(tee: Tee, report_data: bytes | None) -> dict[str, str]:
    binding = Binding(report_data=report_data, freshness=Freshness.CONNECTION)
    return failures(examine(FORGE.good(tee, report_data=DATA), anchors=FORGE.anchors, binding=binding))


def test_a_quote_with_the_demanded_report_data_is_bound(tee: Tee) -> None:
    assert bound(tee, DATA) == {}


@pytest.mark.parametrize(
    "demanded", [DATA[:32], DATA[:32] + bytes(32), DATA[:63] + b"\x00", DATA + b"\x00", b"", bytes(64), None]
)
def test_any_other_report_data_is_refused_also_one_that_agrees_at_first(tee: Tee, demanded: bytes | None) -> None:
    assert list(bound(tee, demanded)) == [f"{tee}.binding"]


# Hostile input (attack 29).


@pytest.mark.parametrize(
    "chain",
    [
        b"",
        b"no PEM",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
)
def test_a_malformed_chain_raises_nothing_but_our_error(tee: Tee, chain: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        refusal(tee, raw=quote(tee, certification=(5, chain)))


@pytest.mark.parametrize(
    "content", [b"", b"\x30\x00", b"\x04\x01x", pck_extension()[:-3], pck_extension(ppid=b"short")]
)
def test_a_malformed_pck_extension_raises_nothing_but_our_error(tee: Tee, content: bytes) -> None:
    leaf = make_authority("Intel SGX PCK Certificate", FORGE.pck_ca, ca=False, extension=content)
    raw = quote(tee, certification=(5, leaf.pem + FORGE.pck_ca.pem + FORGE.root.pem), qe_key=leaf.key)
    with pytest.raises(MalformedEvidenceError):
        refusal(tee, raw=raw)


def test_an_attestation_key_that_is_no_point_is_refused(tee: Tee) -> None:
    raw = quote(tee)
    at = len(parse_quote(raw).signed) + 4 + 64
    assert f"{tee}.attestation_key" in refusal(tee, raw=raw[:at] + b"\x07" * 64 + raw[at + 64 :])


def test_evidence_of_the_other_tee_is_refused_by_name() -> None:
    with pytest.raises(MalformedEvidenceError, match="SGX enclave"):
        examine(FORGE.evidence("tdx", quote("sgx"), FORGE.collateral("sgx")), anchors=FORGE.anchors)
    with pytest.raises(MalformedEvidenceError, match="of a TD"):
        examine(FORGE.evidence("sgx", quote("tdx"), FORGE.collateral("tdx")), anchors=FORGE.anchors)


# Intel's own sample under a test root, whose chain lies beside the quote.


def test_intel_s_test_root_is_untrusted(tee: Tee, vectors: Path) -> None:
    folder = vectors / tee / "intel-qvl-testroot"
    chain = (folder / "pckCert.pem").read_bytes() + (folder / "pckSignChain.pem").read_bytes()
    raw = (folder / "quote.dat").read_bytes()
    with_chain = replaced_certification(raw, chain)
    assert "untrusted root" in failures(examine(FORGE.evidence(tee, with_chain, None)))[f"{tee}.pck_chain"]


def test_intel_s_test_root_sample_is_refused_as_it_is(tee: Tee, vectors: Path) -> None:
    raw = (vectors / tee / "intel-qvl-testroot" / "quote.dat").read_bytes()
    with contextlib.suppress(MalformedEvidenceError):
        assert failures(examine(FORGE.evidence(tee, raw, None)))


def replaced_certification(raw: bytes, chain: bytes) -> bytes:
    """The quote `raw` with `chain` as its certification data, of type 5."""
    read = parse_quote(raw)
    fixed = read.qe_report_signed + read.qe_report_signature
    authentication = read.qe_authentication_data
    data = fixed + len(authentication).to_bytes(2, "little") + authentication
    data += b"\x05\x00" + len(chain).to_bytes(4, "little") + chain
    if read.header.version >= 4:
        data = b"\x06\x00" + len(data).to_bytes(4, "little") + data
    trailer = read.signature + read.attestation_key + data
    return read.signed + len(trailer).to_bytes(4, "little") + trailer
