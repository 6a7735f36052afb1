"""Whether a TDX policy accepts what it names and nothing else, on real and on forged evidence."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_attestation.evidence import Evidence
from keep_attestation.intel.tcb_status import TcbStatus
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.tdx.policy import TdAttributeName, TdxPolicy
from keep_attestation.verdict import Verdict
from keep_attestation.verification import verify
from tests.unit.keep_attestation.intel.forge import NOW, td_report
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine
from tests.unit.keep_attestation.intel.vector_cases import Vector, windows

REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
MR_TD = "7d" * 48
ZERO = "00" * 48


def reference_values(vector: Vector) -> dict[str, Any]:
    named = (*REGISTERS, "mr_config_id", "mr_owner", "mr_owner_config")
    return {name: (vector.facts[name].upper(),) for name in named}


def judged(evidence: Evidence, policy: TdxPolicy, at: datetime) -> Verdict:
    return verify(evidence, Policy(tdx=(policy,)), at=at)


def forged(**fields: Any) -> set[str]:
    """Names of the rules that refuse forged evidence by a policy that is good but for `fields`."""
    return forged_with({}, {}, **fields)


def forged_with(collateral: dict[str, Any], report: dict[str, Any], **fields: Any) -> set[str]:
    values: dict[str, Any] = {"mr_td": (MR_TD,), **dict.fromkeys(REGISTERS[1:], (ZERO,))} | fields
    evidence = FORGE.evidence("tdx", FORGE.quote(td_report(**report)), FORGE.collateral("tdx", **collateral))
    examination = examine(evidence, anchors=FORGE.anchors)
    checks = Policy(tdx=(TdxPolicy(**values),)).appraise(evidence.kind, examination.facts)
    assert checks
    return {check.name for check in checks if check.outcome == "fail"}


def test_with_reference_values_the_defaults_accept_real_evidence_only_as_expected(vectors: Path) -> None:
    for window in windows(vectors, "tdx"):
        verdict = judged(window.evidence, TdxPolicy(**reference_values(window.vector)), window.at)
        refused = window.vector.expected["verify"]["default_policy"].startswith("refuse:")
        expected = window.verified and window.tcb_status == "UpToDate" and not refused
        assert verdict.accepted is expected, verdict.summary


def test_a_named_status_is_accepted_too_unless_something_else_refuses(vectors: Path) -> None:
    for window in windows(vectors, "tdx"):
        if window.verified and window.tcb_status is not None:
            policy = TdxPolicy(tcb_statuses=(TcbStatus(window.tcb_status),), **reference_values(window.vector))
            verdict = judged(window.evidence, policy, window.at)
            assert verdict.accepted, verdict.summary


def test_without_reference_values_genuine_evidence_is_refused(vectors: Path) -> None:
    for window in windows(vectors, "tdx"):
        assert not judged(window.evidence, TdxPolicy(), window.at).accepted


@pytest.mark.parametrize("register", REGISTERS)
def test_each_register_needs_its_reference_value(register: str) -> None:
    assert forged() == set()
    assert forged(**{register: ()}) == {f"tdx.{register}"}
    assert forged(**{register: ("11" * 48,)}) == {f"tdx.{register}"}


def test_a_register_is_left_out_only_by_saying_so() -> None:
    assert forged(rtmr0=("any",), rtmr3=("any",)) == set()
    with pytest.raises(ValueError, match=r"mr_td: 'any' is not 96 hex digits"):
        TdxPolicy(mr_td=("any",))


@pytest.mark.parametrize("field", ["mr_config_id", "mr_owner", "mr_owner_config", "mr_seam"])
def test_other_measurements_are_compared_with_what_is_named(field: str) -> None:
    assert forged(**{field: ("22" * 48,)}) == {f"tdx.{field}"}
    assert forged(**{field: (ZERO,)}) == set()


def test_what_the_host_configured_must_be_zero_unless_named() -> None:
    for field in ("mr_config_id", "mr_owner", "mr_owner_config"):
        assert getattr(TdxPolicy(), field) == (ZERO,)


def test_attributes_are_required_and_forbidden_by_name() -> None:
    migratable = {"td_attributes": 1 << 28 | 1 << 29}
    assert "tdx.migratable" in forged_with({}, migratable)
    assert "tdx.migratable" not in forged_with({}, migratable, forbidden_attributes=())
    assert forged(required_attributes=(TdAttributeName.PKS,)) == {"tdx.pks"}
    assert forged(forbidden_attributes=(TdAttributeName.SEPT_VE_DISABLE,)) == {"tdx.sept_ve_disable"}


def test_debug_is_refused_by_every_policy() -> None:
    assert "tdx.debug" in forged_with({}, {"td_attributes": 1 << 28 | 1}, forbidden_attributes=())


def test_a_status_that_is_not_named_is_refused() -> None:
    assert forged_with({"status": "OutOfDate"}, {}) == {"tdx.tcb_status"}
    assert forged_with({"status": "OutOfDate"}, {}, tcb_statuses=(TcbStatus.OUT_OF_DATE,)) == set()


def test_advisories_are_tolerated_by_name_once_any_is_named() -> None:
    collateral = {"status": "SWHardeningNeeded", "advisories": ("INTEL-SA-00001", "INTEL-SA-00002")}
    statuses = {"tcb_statuses": (TcbStatus.SW_HARDENING_NEEDED,)}
    assert forged_with(collateral, {}, **statuses) == set()
    assert forged_with(collateral, {}, **statuses, tolerated_advisories=("INTEL-SA-00001",)) == {"tdx.advisories"}
    both = ("INTEL-SA-00001", "INTEL-SA-00002")
    assert forged_with(collateral, {}, **statuses, tolerated_advisories=both) == set()


def test_collateral_older_than_the_policy_s_knowledge_is_refused() -> None:
    assert forged_with({"evaluation_number": 16}, {}) == {"tdx.tcb_evaluation_number"}
    assert forged(minimum_tcb_evaluation_number=19) == {"tdx.tcb_evaluation_number"}
    assert forged(maximum_collateral_age_days=2) == {"tdx.collateral_age"}
    assert forged(maximum_collateral_age_days=3) == set()


def test_platforms_and_processor_families_are_accepted_by_name() -> None:
    assert forged(ppids=("000102030405060708090A0B0C0D0E0F",), fmspcs=("00806F050000",)) == set()
    assert forged(ppids=("ff" * 16,)) == {"tdx.ppid"}
    assert forged(fmspcs=("ff" * 6,)) == {"tdx.fmspc"}


def test_a_policy_in_toml_is_read_with_its_defaults() -> None:
    policy = parse_policy(f'[tdx]\nmr_td = ["{MR_TD}"]\nrtmr0 = ["any"]\ntcb_statuses = ["UpToDate", "OutOfDate"]\n')
    (tdx,) = policy.tdx
    assert tdx.tcb_statuses == (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE)
    assert tdx.forbidden_attributes == (TdAttributeName.MIGRATABLE,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mr_td": ["ab"]}, "mr_td: 'ab' is not 96 hex digits"),
        ({"rtmr2": ["any", ZERO]}, "rtmr2: 'any'"),
        ({"rtmr1": ["zz" * 48]}, "rtmr1"),
        ({"mr_td": [" " + "ab" * 47 + "c"]}, "mr_td"),
        ({"xfam": ["00"]}, "xfam"),
        ({"ppids": ["00"]}, "ppids: '00' is not 32 hex digits"),
        ({"fmspcs": ["00"]}, "fmspcs"),
        ({"tcb_statuses": ["Revoked"]}, "Revoked cannot be accepted"),
        ({"tcb_statuses": ["Fine"]}, "Invalid enum value 'Fine'"),
        ({"required_attributes": ["debug"]}, "debug cannot be required"),
        ({"mrtd": [MR_TD]}, "unknown field `mrtd`"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(reason)):
        msgspec.convert(fields, TdxPolicy)


def test_nothing_is_accepted_when_the_tcb_was_not_appraised() -> None:
    evidence = FORGE.evidence("tdx", FORGE.quote(td_report()), None)
    facts = examine(evidence, anchors=FORGE.anchors, at=NOW).facts
    policy = TdxPolicy(mr_td=(MR_TD,), tolerated_advisories=())
    failed = {check.name for rule in policy.rules() if (check := rule.check(facts)).outcome == "fail"}
    assert {"tdx.tcb_status", "tdx.tcb_evaluation_number", "tdx.collateral_age", "tdx.advisories"} <= failed
