"""Verifies Intel quotes, whatever their TEE, up to the platform's TCB status."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keep_attestation.certificates import Certificate, read_crl, revoked_by
from keep_attestation.evidence import Binding, Endorsements
from keep_attestation.intel.anchors import TrustAnchors
from keep_attestation.intel.collateral import (
    Collateral,
    age_days,
    parse_collateral,
    period_problem,
    read_pem_chain,
    signers_problem,
)
from keep_attestation.intel.dcap import Appraisal, appraise
from keep_attestation.intel.pck import PckExtension, anchored_chain, parse_pck_extension, pck_chain_problem
from keep_attestation.intel.quote import CertificationDataType, Quote
from keep_attestation.intel.tcb_status import TcbStatus
from keep_attestation.verdict import Checks, CollateralDates
from keep_protocol.evidence import EvidenceKind

_CERTIFICATION_NAMES = {
    CertificationDataType.PPID_PLAIN: "the platform's PPID in plain",
    CertificationDataType.PPID_RSA_2048: "the platform's PPID, encrypted with RSA-2048",
    CertificationDataType.PPID_RSA_3072: "the platform's PPID, encrypted with RSA-3072",
    CertificationDataType.PCK_LEAF: "a PCK certificate without its chain",
    CertificationDataType.PCK_CHAIN: "a PCK chain",
    CertificationDataType.QE_REPORT: "a QE report",
    CertificationDataType.PLATFORM_MANIFEST: "a platform manifest",
}


@dataclass(frozen=True, slots=True)
class PlatformFindings:
    """What was found of the platform that signed a quote."""

    facts: Mapping[str, Any]
    collateral: CollateralDates


def verify_platform(
    kind: EvidenceKind,
    quote: Quote,
    raw: bytes,
    endorsements: Endorsements,
    *,
    at: datetime,
    anchors: TrustAnchors,
    checks: Checks,
) -> PlatformFindings:
    """Steps 1 to 6 of verifying `quote`, which was parsed from `raw`; each adds a check named `<kind>.…`.

    As in SGX ECDSA QuoteVerification (Intel DCAP API reference, sgx_qv_verify_quote) and Intel TDX DCAP QVL:

    1. the PCK chain in the quote leads to a pinned root and is valid at `at`, and no CRL given beside it forbids it;
    2. the PCK key signed the QE's report;
    3. the QE's report holds SHA-256(attestation key ‖ authentication data), then zeros;
    4. the attestation key signed the quote;
    5. collateral is there, is for this platform and TEE, and is current at `at`;
    6. by it nothing is revoked, the QE is Intel's, and the platform has a TCB level that is not revoked.

    A step after a failed one is not done. Raises `MalformedEvidenceError`.
    """
    chain = _pck_chain(kind, quote, at, anchors, checks)
    if chain is None or not _crls_allow(kind, chain, endorsements.crls, at, checks):
        return PlatformFindings({}, CollateralDates())
    dates = CollateralDates(
        not_before=max(certificate.not_before for certificate in chain),
        not_after=min(certificate.not_after for certificate in chain),
    )
    pck = parse_pck_extension(chain[0])
    facts = _pck_facts(pck, chain)
    if not _signatures_hold(kind, quote, chain[0], checks):
        return PlatformFindings(facts, dates)
    if endorsements.collateral is None:
        checks.fail(
            f"{kind}.collateral",
            "no collateral came with the quote: get TCB info, QE identity and CRLs for FMSPC "
            f"{pck.fmspc.hex().upper()} and the {facts['pck_ca']} CA from Intel PCS "
            "(https://api.trustedservices.intel.com) or the cloud's PCCS, and give them as endorsements",
        )
        return PlatformFindings(facts, dates)
    collateral = parse_collateral(endorsements.collateral)
    dates = _joined(dates, collateral.dates)
    facts |= _collateral_facts(collateral, at)
    problem = _collateral_problem(kind, collateral, pck, at) or signers_problem(collateral.certificates, chain[-1])
    if checks.expect(
        f"{kind}.collateral",
        problem is None,
        passed=f"it is for FMSPC {collateral.fmspc} and current, TCB evaluation {dates.evaluation_number}",
        failed=str(problem),
    ):
        facts |= _appraised_facts(kind, appraise(raw, collateral.bundle, chain[-1].der, at), pck, checks)
    return PlatformFindings(facts, dates)


def check_binding(kind: EvidenceKind, report_data: bytes, binding: Binding | None, checks: Checks) -> None:
    """Whether all 64 bytes of `report_data` are what `binding` demands; without one that is only noted."""
    name = f"{kind}.binding"
    if binding is None:
        checks.note(name, "nothing was demanded: the quote may be a copy of somebody else's")
    elif binding.report_data is None:
        checks.fail(name, f"the binding gives no report_data, and {kind} quotes can be bound by nothing else")
    else:
        checks.expect(
            name,
            report_data == binding.report_data,
            passed="all 64 bytes of report_data are as demanded",
            failed=f"report_data is {report_data.hex()}, demanded is {binding.report_data.hex()}",
        )


def header_facts(quote: Quote) -> dict[str, Any]:
    return {
        "quote_version": quote.header.version,
        "att_key_type": quote.header.attestation_key_type,
        "tee_type": quote.header.tee_type,
        "qe_svn": quote.header.qe_svn,
        "pce_svn": quote.header.pce_svn,
        "user_data": quote.header.user_data.hex(),
        "certification_data_type": int(quote.certification_data_type),
    }


def _pck_chain(
    kind: EvidenceKind, quote: Quote, at: datetime, anchors: TrustAnchors, checks: Checks
) -> tuple[Certificate, ...] | None:
    name = f"{kind}.pck_chain"
    if quote.certification_data_type is not CertificationDataType.PCK_CHAIN:
        checks.fail(
            name,
            f"no PCK chain in the quote: it has certification data type {quote.certification_data_type:d} "
            f"({_CERTIFICATION_NAMES[quote.certification_data_type]}); have the attester's quoting service embed the "
            "chain (type 5)",
        )
        return None
    chain = anchored_chain(read_pem_chain(quote.certification_data), anchors)
    problem = chain if isinstance(chain, str) else pck_chain_problem(chain, at)
    if isinstance(chain, str) or problem is not None:
        checks.fail(name, str(problem))
        return None
    checks.ok(name, f"{chain[0].subject_name!r} leads to the pinned {chain[-1].subject_name!r} and is valid")
    return chain


def _crls_allow(
    kind: EvidenceKind, chain: tuple[Certificate, ...], crls: tuple[bytes, ...], at: datetime, checks: Checks
) -> bool:
    for crl in map(read_crl, crls):
        issuer = next((certificate for certificate in chain[1:] if certificate.subject == crl.issuer), None)
        if issuer is None:
            problem: str | None = "a CRL was given that no CA of the PCK chain issued"
        else:
            problem = revoked_by(crl, issuer, (below.serial for below in chain if below.issuer == issuer.subject), at)
        if problem is not None:
            checks.fail(f"{kind}.revocation", problem)
            return False
    return True


def _pck_facts(pck: PckExtension, chain: tuple[Certificate, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ppid": pck.ppid.hex(),
        "fmspc": pck.fmspc.hex(),
        "pce_id": pck.pce_id.hex(),
        "pck_pce_svn": pck.pce_svn,
        "pck_cpu_svn": pck.cpu_svn.hex(),
        "sgx_type": pck.sgx_type,
        "pck_ca": "platform" if "Platform" in chain[1].subject_name else "processor",
        "pck_serial": f"{chain[0].serial:x}",
        "revocation_checked": False,
        **pck.configuration,
    }
    if pck.platform_instance_id is not None:
        facts["platform_instance_id"] = pck.platform_instance_id.hex()
    return facts


def _signatures_hold(kind: EvidenceKind, quote: Quote, pck: Certificate, checks: Checks) -> bool:
    pck_key = pck.public_key()
    if not isinstance(pck_key, ec.EllipticCurvePublicKey) or not isinstance(pck_key.curve, ec.SECP256R1):
        checks.fail(f"{kind}.qe_signature", "the PCK certificate's key is not on P-256")
        return False
    if not checks.expect(
        f"{kind}.qe_signature",
        _ecdsa_holds(pck_key, quote.qe_report_signature, quote.qe_report_signed),
        passed="the QE's report is signed by the PCK key",
        failed="the QE's report is not signed by the PCK key",
    ):
        return False
    bound = hashlib.sha256(quote.attestation_key + quote.qe_authentication_data).digest() + bytes(32)
    if not checks.expect(
        f"{kind}.attestation_key",
        quote.qe_report.report_data == bound,
        passed="the QE's report vouches for the attestation key",
        failed=f"the QE's report vouches for {quote.qe_report.report_data.hex()}, not for the attestation key "
        f"(SHA-256 {bound[:32].hex()})",
    ):
        return False
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        checks.fail(f"{kind}.signature", "the attestation key is no point on P-256")
        return False
    return checks.expect(
        f"{kind}.signature",
        _ecdsa_holds(key, quote.signature, quote.signed),
        passed="the quote is signed by the attestation key",
        failed="the quote is not signed by the attestation key: it was changed",
    )


def _ecdsa_holds(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _collateral_facts(collateral: Collateral, at: datetime) -> dict[str, Any]:
    return {
        "tcb_evaluation_number": collateral.dates.evaluation_number,
        "tcb_issue_date": collateral.tcb_issue_date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "collateral_age_days": age_days(collateral, at),
    }


def _collateral_problem(kind: EvidenceKind, collateral: Collateral, pck: PckExtension, at: datetime) -> str | None:
    if problem := period_problem(collateral.dates, at):
        return problem
    tcb_id, qe_id = ("TDX", "TD_QE") if kind is EvidenceKind.TDX else ("SGX", "QE")
    if (collateral.tcb_id, collateral.qe_id) != (tcb_id, qe_id):
        return f"it is for {collateral.tcb_id} and {collateral.qe_id}; {tcb_id} and {qe_id} are needed"
    if (collateral.fmspc, collateral.pce_id) != (pck.fmspc.hex(), pck.pce_id.hex()):
        return (
            f"it is for FMSPC {collateral.fmspc} and PCE {collateral.pce_id}; the platform has {pck.fmspc.hex()} and "
            f"{pck.pce_id.hex()}"
        )
    return None


def _appraised_facts(
    kind: EvidenceKind, appraisal: Appraisal | str, pck: PckExtension, checks: Checks
) -> dict[str, Any]:
    name = f"{kind}.tcb"
    if isinstance(appraisal, str):
        checks.fail(name, f"refused by Intel's collateral: {appraisal}")
        return {}
    if (appraisal.ppid, appraisal.fmspc) != (pck.ppid, pck.fmspc):
        # The library reads the chain by itself; two readings of one quote must not differ.
        checks.fail(name, "the quote's PCK chain can be read in two ways")
        return {}
    checks.expect(
        name,
        appraisal.status is not TcbStatus.REVOKED,
        passed=f"nothing is revoked, the QE is Intel's, the platform is {appraisal.status}",
        failed="Intel has revoked this TCB level: its keys are known to others",
    )
    return {
        "tcb_status": appraisal.status.value,
        "advisories": list(appraisal.advisories),
        "revocation_checked": True,
    }


def _joined(one: CollateralDates, other: CollateralDates) -> CollateralDates:
    return CollateralDates(
        not_before=max((date for date in (one.not_before, other.not_before) if date is not None), default=None),
        not_after=min((date for date in (one.not_after, other.not_after) if date is not None), default=None),
        evaluation_number=other.evaluation_number,
    )
