"""Verifies SEV-SNP evidence: is the report genuine, whose chip's, and bound to what it must be bound to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keep_attestation.certificates import (
    Certificate,
    RevocationList,
    chain_problem,
    read_certificate,
    read_crl,
    revoked_by,
)
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.signatures import SignatureScheme, signature_holds
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS, Anchors, Hierarchy
from keep_attestation.snp.facts import product_facts, report_facts, vek_facts
from keep_attestation.snp.products import Processor, Product, decode_tcb, processor_of
from keep_attestation.snp.report import HOST_REQUESTED_VMPL, Report, SigningKey, parse_report
from keep_attestation.snp.vek import EndorsementKey, Vek, endorsement_key_of, read_vek
from keep_attestation.verdict import Checks, CollateralDates, Examination

MAX_CERTIFICATES = 16
MAX_CRLS = 8


def examine_snp(
    evidence: Evidence, *, binding: Binding | None, at: datetime, anchors: Anchors = PRODUCTION_ANCHORS
) -> Examination:
    """Everything about an SNP report (`evidence.body`, 1184 bytes) that is not a matter of policy.

    `evidence.endorsements.certificates` holds the VCEK or VLEK; AMD's own keys may be beside it, but only the pinned
    ones. The steps are those of AMD 56860 ("Attestation") and 57230 ("Certificate Chain Verification"):

    1. the report has the layout of its version, and reserved fields are zero;
    2. a certificate of the kind of key that the report names came along;
    3. its issuer is the pinned key that issues this kind, of one product line;
    4. the chain holds at `at`;
    5. the CRLs that came are the root's and current, and revoke nothing in the chain;
    6. the key signed the report;
    7. the processor in the report, the product in the certificate and the root agree;
    8. the key was derived for the TCB that the report claims: the certificate, not the report, proves the TCB;
    9. the chip in the certificate (VCEK) is the chip in the report;
    10. a guest asked for the report, not the host;
    11. REPORT_DATA is what `binding` demands, all 64 bytes.

    Raises `MalformedEvidenceError`.
    """
    report = parse_report(evidence.body)
    certificates, crls = _read_endorsements(evidence.endorsements)
    checks = Checks()
    checks.ok("snp.format", f"a report of version {report.version}")
    facts = report_facts(report)
    dates = _examine(report, certificates, crls, at, anchors, checks, facts)
    checks.expect(
        "snp.guest_requested",
        report.vmpl != HOST_REQUESTED_VMPL,
        passed=f"a guest asked for the report, at VMPL {report.vmpl}",
        failed="the host asked for the report (VMPL 0xffffffff): no guest vouches for its REPORT_DATA",
    )
    _check_binding(report, binding, checks)
    return Examination(
        checks=checks.made, facts=facts, identity=hashlib.sha256(report.signed).hexdigest(), collateral=dates
    )


def _read_endorsements(endorsements: Endorsements) -> tuple[tuple[Certificate, ...], tuple[RevocationList, ...]]:
    if len(endorsements.certificates) > MAX_CERTIFICATES or len(endorsements.crls) > MAX_CRLS:
        raise MalformedEvidenceError(
            f"{len(endorsements.certificates)} certificates and {len(endorsements.crls)} CRLs came with an SNP report; "
            f"at most {MAX_CERTIFICATES} and {MAX_CRLS} are read"
        )
    certificates = {certificate.der: certificate for certificate in map(read_certificate, endorsements.certificates)}
    return tuple(certificates.values()), tuple(map(read_crl, endorsements.crls))


def _examine(
    report: Report,
    certificates: Sequence[Certificate],
    crls: Sequence[RevocationList],
    at: datetime,
    anchors: Anchors,
    checks: Checks,
    facts: dict[str, Any],
) -> CollateralDates:
    """Steps 2 to 9, as far as each can be made; adds to `checks` and `facts`."""
    certificate = _find_endorsement_key(report, certificates, checks)
    if certificate is None:
        return CollateralDates()
    vek = read_vek(certificate)
    facts |= vek_facts(vek)
    hierarchy = _find_hierarchy(vek, certificate, anchors, checks)
    if hierarchy is None:
        return CollateralDates()
    chain = (certificate, hierarchy.issuer_of(vek.key), hierarchy.ark)
    problem = _foreign_problem(certificates, hierarchy) or chain_problem(chain, at)
    checks.expect(
        "snp.chain",
        problem is None,
        passed=f"the {vek.key} is issued by {chain[1].subject_name}, below the pinned {hierarchy.ark.subject_name}",
        failed=str(problem),
    )
    facts["revocation_checked"] = _check_revocation(chain, crls, at, checks)
    _check_signature(report, certificate, vek, checks)
    if (processor := _check_product(report, vek, hierarchy.product, checks)) is not None:
        facts |= product_facts(report, hierarchy.product, processor)
        _check_tcb(report, vek, checks)
        _check_chip(report, vek, checks)
    return CollateralDates(
        not_before=max([*(each.not_before for each in chain), *(crl.this_update for crl in crls)]),
        not_after=min([*(each.not_after for each in chain), *(crl.next_update for crl in crls if crl.next_update)]),
    )


def _find_endorsement_key(report: Report, certificates: Sequence[Certificate], checks: Checks) -> Certificate | None:
    name = "snp.endorsement_key"
    if report.key_info.signing_key is SigningKey.NONE or report.key_info.mask_chip_key:
        checks.fail(name, "the host has switched signing off (KEY_INFO): the report proves nothing")
        return None
    wanted = EndorsementKey[report.key_info.signing_key.name]
    by_kind = {kind: [c for c in certificates if endorsement_key_of(c) is kind] for kind in EndorsementKey}
    candidates = by_kind[wanted]
    if not candidates:
        others = [kind for kind, found in by_kind.items() if found]
        came = f"a {others[0]} did" if others else "none did"
        checks.fail(
            name,
            f"the report is signed with a {wanted}, whose certificate must come with it; {came}. It is in the host's "
            "certificate table, and a VCEK's at AMD's key service",
        )
        return None
    checks.ok(name, f"the report is signed with a {wanted}, and its certificate came along")
    if len(candidates) == 1:
        return candidates[0]
    # A host may offer the certificate of an older TCB beside the one that a source found.
    return next((each for each in candidates if _signed_by(each, report)), candidates[0])


def _find_hierarchy(vek: Vek, certificate: Certificate, anchors: Anchors, checks: Checks) -> Hierarchy | None:
    hierarchy = next((each for each in anchors if each.issuer_of(vek.key).subject == certificate.issuer), None)
    if hierarchy is None:
        expected = ", ".join(each.issuer_of(vek.key).subject_name for each in anchors)
        checks.fail(
            "snp.chain",
            f"the {vek.key} is issued by {certificate.issuer_name!r}; trusted to issue a {vek.key} are {expected}",
        )
        return None
    return hierarchy


def _foreign_problem(certificates: Sequence[Certificate], hierarchy: Hierarchy) -> str | None:
    """Nothing depends on what came beside the endorsement key, but who sends another root under AMD's name is wrong or
    lies."""
    pinned = {each.der for each in hierarchy.certificates}
    foreign = next((c for c in certificates if endorsement_key_of(c) is None and c.der not in pinned), None)
    if foreign is None:
        return None
    return (
        f"{foreign.subject_name!r} with SHA-256 {foreign.sha256} came along and is not pinned for {hierarchy.product}"
    )


def _check_revocation(
    chain: tuple[Certificate, Certificate, Certificate], crls: Sequence[RevocationList], at: datetime, checks: Checks
) -> bool:
    """Whether revocation was looked up, and found to be none."""
    name = "snp.revocation"
    if not crls:
        checks.note(name, "no CRL came with the report; pinned intermediates cannot be brought back, so none is needed")
        return False
    _, issuer, root = chain
    # Not the endorsement key itself: every VCEK and VLEK has serial number 0, so a CRL cannot name one.
    problem = next((p for crl in crls if (p := revoked_by(crl, root, (issuer.serial, root.serial), at))), None)
    return checks.expect(
        name,
        problem is None,
        passed=f"the CRL of {root.subject_name} revokes nothing in the chain",
        failed=str(problem),
    )


def _check_signature(report: Report, certificate: Certificate, vek: Vek, checks: Checks) -> None:
    checks.expect(
        "snp.signature",
        _signed_by(certificate, report),
        passed=f"the {vek.key} signed the report",
        failed=f"the signature is not by this {vek.key}: the report was changed, or the certificate is of another key",
    )


def _signed_by(certificate: Certificate, report: Report) -> bool:
    key = certificate.public_key()
    # The curve is the firmware's, not the certificate's choice.
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    return signature_holds(key, SignatureScheme.ECDSA_SHA384, signature, report.signed)


def _check_product(report: Report, vek: Vek, rooted: Product, checks: Checks) -> Processor | None:
    """The processor, if everything agrees on it."""
    if report.version >= 3:
        processor, says = processor_of(report.cpuid), "from"
    else:
        # Reports of version 2 do not say; the root decides then. They are from before Turin, whose TCBs differ.
        processor = Processor.MILAN if rooted is Product.TURIN else Processor(rooted.value)
        says = "of version 2, as from"
    holds = checks.expect(
        "snp.product",
        vek.product is rooted and processor.product is rooted,
        passed=f"{processor}, by root, certificate and report",
        failed=f"the root is for {rooted}, the certificate for {vek.product_name}, the report {says} a {processor}",
    )
    return processor if holds else None


def _check_tcb(report: Report, vek: Vek, checks: Checks) -> None:
    reported = decode_tcb(report.reported_tcb, vek.product)
    checks.expect(
        "snp.tcb",
        reported == vek.tcb,
        passed=f"the {vek.key} was derived for the reported TCB: {reported}",
        failed=f"the report claims the TCB {reported}; the {vek.key} was derived for {vek.tcb}",
    )


def _check_chip(report: Report, vek: Vek, checks: Checks) -> None:
    name = "snp.chip_id"
    if vek.hardware_id is None:
        checks.note(name, f"a VLEK is no chip's own: it belongs to {vek.csp_id}")
        return
    if not any(report.chip_id):
        checks.fail(name, "the host masks the chip's id (MASK_CHIP_ID), so the VCEK cannot be tied to the chip")
        return
    # Turin's ids have 8 bytes and the field is zero behind them.
    checks.expect(
        name,
        report.chip_id == vek.hardware_id.ljust(len(report.chip_id), b"\x00"),
        passed=f"the VCEK is that of the reporting chip {report.chip_id.hex()[:16]}…",
        failed=f"the report is from chip {report.chip_id.hex()[:16]}…, the VCEK is of {vek.hardware_id.hex()[:16]}…",
    )


def _check_binding(report: Report, binding: Binding | None, checks: Checks) -> None:
    name = "snp.binding"
    if binding is None:
        checks.note(name, "nothing was demanded of REPORT_DATA: anybody may hold a copy of this report")
    elif binding.report_data is None:
        checks.fail(name, "the binding demands no REPORT_DATA, which is what an SNP report carries")
    else:
        # All 64 bytes: a prefix would leave the rest to whoever asks for the report.
        checks.expect(
            name,
            report.report_data == binding.report_data,
            passed="REPORT_DATA is what was demanded",
            failed=f"REPORT_DATA is {report.report_data.hex()[:32]}…, demanded was {binding.report_data.hex()[:32]}…",
        )
