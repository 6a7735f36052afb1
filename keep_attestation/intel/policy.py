"""What policies may demand of the platform under a TD or an enclave."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from keep_attestation.intel.tcb_status import TcbStatus
from keep_attestation.rules import AtLeast, AtMost, Facts, OneOf, Rule
from keep_attestation.verdict import Check, Outcome
from keep_protocol.evidence import EvidenceKind


class PlatformPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part that TDX and SGX share."""

    tcb_statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    """Intel's ratings that are accepted. `Revoked` never is."""
    tolerated_advisories: tuple[str, ...] | None = None
    """Intel advisories (`INTEL-SA-00615`) that the platform may be affected by; left out, those that come with an
    accepted status."""
    minimum_tcb_evaluation_number: int = 17
    """Intel's tcbEvaluationDataNumber: how new the knowledge must be that the rating rests on. Raise it with each TCB
    recovery event: by older collateral, which an attacker can present, a vulnerable platform is still UpToDate."""
    maximum_collateral_age_days: int = 30
    """Days since TCB info and QE identity were issued; Intel renews them at least every 30."""
    ppids: tuple[str, ...] = ()
    """Platforms that are accepted (PPID, 32 hex digits); left out, every platform that Intel certified. Whoever holds
    a machine can take its keys out with an interposer on its memory bus (TEE.fail): name the machines you know."""
    fmspcs: tuple[str, ...] = ()
    """Processor families that are accepted (FMSPC, 12 hex digits); left out, all."""

    def __post_init__(self) -> None:
        check_hex("ppids", self.ppids, 16)
        check_hex("fmspcs", self.fmspcs, 6)
        if TcbStatus.REVOKED in self.tcb_statuses:
            raise ValueError("tcb_statuses: Revoked cannot be accepted; leave it out")

    def platform_rules(self, kind: EvidenceKind) -> tuple[Rule, ...]:
        rules: list[Rule] = [
            OneOf("tcb_status", [status.value for status in self.tcb_statuses], f"{kind}.tcb_status"),
            AtLeast("tcb_evaluation_number", self.minimum_tcb_evaluation_number, f"{kind}.tcb_evaluation_number"),
            AtMost("collateral_age_days", self.maximum_collateral_age_days, f"{kind}.collateral_age"),
        ]
        if self.tolerated_advisories is not None:
            rules.append(AdvisoriesWithin(self.tolerated_advisories, f"{kind}.advisories"))
        if self.ppids:
            rules.append(OneOf("ppid", lower(self.ppids), f"{kind}.ppid"))
        if self.fmspcs:
            rules.append(OneOf("fmspc", lower(self.fmspcs), f"{kind}.fmspc"))
        return tuple(rules)


@dataclass(frozen=True, slots=True)
class AdvisoriesWithin:
    """Every advisory that applies to the platform is one of `tolerated`."""

    tolerated: Collection[str]
    check_name: str

    def check(self, facts: Facts) -> Check:
        advisories = facts.get("advisories")
        if not isinstance(advisories, list):
            return Check(
                self.check_name, Outcome.FAIL, "nobody knows which advisories apply: the TCB was not appraised"
            )
        if intolerable := [name for name in advisories if name not in self.tolerated]:
            return Check(self.check_name, Outcome.FAIL, f"not tolerated: {', '.join(intolerable)}")
        return Check(self.check_name, Outcome.PASS, f"all {len(advisories)} advisories are tolerated")


def lower(values: Collection[str]) -> tuple[str, ...]:
    """Hex as facts have it."""
    return tuple(value.lower() for value in values)


def check_hex(field: str, values: Collection[str], size: int) -> None:
    """Raises `ValueError` that names `field` unless each value is hex of `size` bytes."""
    for value in values:
        try:
            fits = len(value) == 2 * size and len(bytes.fromhex(value)) == size
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{field}: {value!r} is not {2 * size} hex digits ({size} bytes)")
