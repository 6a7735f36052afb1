"""Verifies Intel TDX quotes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.event_log import parse_tcg_log, replay_ccel
from keep_attestation.event_log.registers import rtmr_mismatch
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.intel.anchors import PRODUCTION_ANCHORS, TrustAnchors
from keep_attestation.intel.quote import parse_quote
from keep_attestation.intel.reports import TdAttributes, TdReport
from keep_attestation.intel.verification import check_binding, header_facts, verify_platform
from keep_attestation.tdx.dstack_log import parse_dstack_log, replay_dstack_log
from keep_attestation.tdx.policy import TdAttributeName
from keep_attestation.verdict import Checks, Examination
from keep_protocol.evidence import EvidenceKind


def examine_tdx(
    evidence: Evidence, *, binding: Binding | None, at: datetime, anchors: TrustAnchors = PRODUCTION_ANCHORS
) -> Examination:
    """What the quote in `evidence.body` says, judged at `at` by the collateral that came with it.

    Steps 1 to 6 are those of `verify_platform`; then

    7. MR_SERVICETD is zero: no service TD (migration) may touch this TD (dcap-qvl demands the same);
    8. report_data is what `binding` demands, all 64 bytes;
    9. an event log, if there is one (CCEL, or dstack's JSON), replays to the four RTMRs.

    Raises `MalformedEvidenceError`.
    """
    quote = parse_quote(evidence.body)
    report = quote.body
    if not isinstance(report, TdReport):
        raise UnsupportedEvidenceError("quote: it is of an SGX enclave, not of a TD")
    checks = Checks()
    platform = verify_platform(
        EvidenceKind.TDX, quote, evidence.body, evidence.endorsements, at=at, anchors=anchors, checks=checks
    )
    if report.mr_service_td is not None:
        checks.expect(
            "tdx.service_td",
            not any(report.mr_service_td),
            passed="no service TD is bound",
            failed=f"service TD {report.mr_service_td.hex()} is bound to this TD and can move it to another machine",
        )
    check_binding(EvidenceKind.TDX, report.report_data, binding, checks)
    facts = {**header_facts(quote), **report_facts(report), **platform.facts, "log_replayed": False}
    if evidence.log is not None:
        facts["log_replayed"] = _log_replays(evidence.log, report, checks)
    return Examination(checks=checks.made, facts=facts, identity=quote.identity, collateral=platform.collateral)


def report_facts(report: TdReport) -> dict[str, Any]:
    """The report's fields by name, and each known bit of TD_ATTRIBUTES as a boolean."""
    facts: dict[str, Any] = {
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_signer_seam": report.mr_signer_seam.hex(),
        "seam_attributes": report.seam_attributes.hex(),
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        "mr_td": report.mr_td.hex(),
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "report_data": report.report_data.hex(),
    }
    facts |= {f"rtmr{number}": value.hex() for number, value in enumerate(report.rtmrs)}
    facts |= {name.value: TdAttributes[name.name] in report.flags for name in TdAttributeName}
    if report.tee_tcb_svn2 is not None and report.mr_service_td is not None:
        facts |= {"tee_tcb_svn2": report.tee_tcb_svn2.hex(), "mr_service_td": report.mr_service_td.hex()}
    return facts


def _log_replays(log: bytes, report: TdReport, checks: Checks) -> bool:
    if log.lstrip()[:1] == b"[":
        replayed = replay_dstack_log(parse_dstack_log(log))
    else:
        replayed = replay_ccel(parse_tcg_log(log, crypto_agile=True))
    mismatch = rtmr_mismatch(dict(enumerate(report.rtmrs)), replayed)
    return checks.expect(
        "tdx.log",
        mismatch is None,
        passed="the event log replays to all four RTMRs",
        failed=f"the event log is not this TD's: {mismatch}",
    )
