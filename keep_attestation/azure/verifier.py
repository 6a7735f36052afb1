"""Examines evidence of Azure's confidential VMs: hardware report, HCL report, and the virtual TPM's quote."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec

from keep_attestation.azure.bundle import AzureBundle, decode_azure_bundle
from keep_attestation.azure.hcl import HclReport, ReportType, parse_hcl_report
from keep_attestation.azure.tdreport import tdreport_problem, unpadded_quote
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS, Anchors
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.tdx.verifier import examine_tdx
from keep_attestation.tpm.quote import check_qualifying_data, check_quote, parse_quote, quote_facts
from keep_attestation.tpm.structures import SigningScheme
from keep_attestation.tpm.verifier import check_event_log
from keep_attestation.verdict import Checks, Examination
from keep_protocol.evidence import EvidenceKind

_TYPES = {EvidenceKind.AZURE_SNP: ReportType.SNP, EvidenceKind.AZURE_TDX: ReportType.TDX}


def examine_azure(
    evidence: Evidence,
    *,
    binding: Binding | None,
    at: datetime,
    snp_anchors: Anchors = PRODUCTION_ANCHORS,
) -> Examination:
    """What the bundle in `evidence.body` proves, for the kinds azure-snp and azure-tdx:

    1. decode the bundle, the HCL report, the quote and its signature; the report is of the kind that was announced;
    2. the hardware's report in the HCL report is genuine (`examine_snp`), or the TD quote is (`examine_tdx`) and was
       made of the TDREPORT in the HCL report;
    3. its report data are the SHA-256 of the HCL report's runtime data, then zeros: so the paravisor wrote them;
    4. the attestation key in the runtime data signed the quote, and it covers every PCR value given and no other;
    5. the qualifying data are those of `binding`;
    6. the event log, where there is one, replays to the quoted PCRs.

    `evidence.endorsements` are the hardware's. Raises `MalformedEvidenceError`.
    """
    bundle = decode_azure_bundle(evidence.body)
    report = parse_hcl_report(bundle.hcl_report)
    if report.type is not _TYPES.get(evidence.kind):
        raise MalformedEvidenceError(
            f"HCL report: it is of {report.type.name}, the evidence was said to be {evidence.kind}"
        )
    quote = parse_quote(bundle.quote, bundle.signature, bundle.pcrs)
    hardware = _examine_hardware(evidence, bundle, report, at, snp_anchors)
    checks = Checks()
    checks.extend(hardware.checks)
    facts: dict[str, Any] = quote_facts(quote) | {
        "tee": report.type.name.lower(),
        report.type.name.lower(): hardware.facts,
        "hcl_version": report.version,
        "vm_configuration": dict(report.vm_configuration),
        "user_data": report.user_data.hex(),
        "log_replayed": False,
    }
    if bundle.td_quote is not None:
        problem = tdreport_problem(report.hardware_report, bundle.td_quote)
        passed = "the TD quote was made of the TDREPORT in the HCL report"
        checks.expect("azure.tdreport", problem is None, passed=passed, failed=str(problem))
    key, scheme = report.attestation_key, SigningScheme.RSASSA
    if check_quote(checks, quote, key, scheme, HashAlgorithm.SHA256, "azure"):
        check_qualifying_data(checks, quote.attest, binding, "azure")
        facts["log_replayed"] = check_event_log(checks, evidence.log, quote.pcrs, "azure")
    return Examination(
        checks=checks.made,
        facts=facts,
        identity=sha256(quote.message).hexdigest(),
        collateral=hardware.collateral,
    )


def _examine_hardware(
    evidence: Evidence, bundle: AzureBundle, report: HclReport, at: datetime, snp_anchors: Anchors
) -> Examination:
    binding = Binding(report_data=report.report_data)
    if report.type is ReportType.SNP:
        if bundle.td_quote is not None:
            raise MalformedEvidenceError("Azure bundle: a TD quote beside an SNP report")
        snp = msgspec.structs.replace(evidence, kind=EvidenceKind.SNP, body=report.hardware_report, log=None)
        return examine_snp(snp, binding=binding, at=at, anchors=snp_anchors)
    if bundle.td_quote is None:
        raise MalformedEvidenceError("Azure bundle: the TD quote is missing; a TDREPORT alone proves nothing elsewhere")
    tdx = msgspec.structs.replace(evidence, kind=EvidenceKind.TDX, body=unpadded_quote(bundle.td_quote), log=None)
    return examine_tdx(tdx, binding=binding, at=at)
