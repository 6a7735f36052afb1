"""Verifies Intel SGX (DCAP) quotes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.intel.anchors import PRODUCTION_ANCHORS, TrustAnchors
from keep_attestation.intel.quote import parse_quote
from keep_attestation.intel.reports import EnclaveAttributes, EnclaveReport
from keep_attestation.intel.verification import check_binding, header_facts, verify_platform
from keep_attestation.verdict import Checks, Examination
from keep_protocol.evidence import EvidenceKind


def examine_sgx(
    evidence: Evidence, *, binding: Binding | None, at: datetime, anchors: TrustAnchors = PRODUCTION_ANCHORS
) -> Examination:
    """What the quote in `evidence.body` says, judged at `at` by the collateral that came with it.

    Steps 1 to 6 are those of `verify_platform`; then

    7. report_data is what `binding` demands, all 64 bytes.

    Raises `MalformedEvidenceError`.
    """
    quote = parse_quote(evidence.body)
    report = quote.body
    if not isinstance(report, EnclaveReport):
        raise UnsupportedEvidenceError("quote: it is of a TD, not of an SGX enclave")
    checks = Checks()
    platform = verify_platform(
        EvidenceKind.SGX, quote, evidence.body, evidence.endorsements, at=at, anchors=anchors, checks=checks
    )
    check_binding(EvidenceKind.SGX, report.report_data, binding, checks)
    facts = {**header_facts(quote), **report_facts(report), **platform.facts}
    return Examination(checks=checks.made, facts=facts, identity=quote.identity, collateral=platform.collateral)


def report_facts(report: EnclaveReport) -> dict[str, Any]:
    """The report's fields by name, and the attributes that policies look at as booleans."""
    return {
        "cpu_svn": report.cpu_svn.hex(),
        "misc_select": report.misc_select,
        "isv_ext_prod_id": report.isv_ext_prod_id.hex(),
        "attributes": report.attributes.hex(),
        "mr_enclave": report.mr_enclave.hex(),
        "mr_signer": report.mr_signer.hex(),
        "config_id": report.config_id.hex(),
        "isv_prod_id": report.isv_prod_id,
        "isv_svn": report.isv_svn,
        "config_svn": report.config_svn,
        "isv_family_id": report.isv_family_id.hex(),
        "report_data": report.report_data.hex(),
        "debug": EnclaveAttributes.DEBUG in report.flags,
        "provision_key": EnclaveAttributes.PROVISION_KEY in report.flags,
    }
