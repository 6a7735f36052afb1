"""Which of Azure's confidential VMs a policy accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from keep_attestation.rules import Equals, Facts, OneOf, Rule
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.tpm.policy import PcrReferences, check_pcr_references, pcr_rules
from keep_attestation.verdict import Check, Outcome


class AzurePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One alternative of accepted VMs. The paravisor is judged by the hardware's policy, what it booted by PCRs."""

    snp: SnpPolicy | None = None
    """`[azure-snp.snp]`: what the SNP report must say. Azure's paravisor is what it measures."""
    tdx: TdxPolicy | None = None
    """`[azure-tdx.tdx]`: what the TD quote must say. One of the two is demanded."""
    pcrs: PcrReferences = {}
    """`[azure-snp.pcrs.sha256]`: by register the values that are allowed, in hex. At least one is demanded."""
    allow_no_secure_boot: bool = False
    """Accept VMs that do not check what they boot. PCRs may say the same more exactly."""
    vm_ids: tuple[str, ...] = ()
    """Single VMs by vmUniqueId; empty: any."""
    vm_configuration: Mapping[str, bool | int | str] = {}
    """Further settings that the paravisor must report with just this value, e.g. `console-enabled = false`."""
    require_event_log: bool = False
    """Demand the boot's event log, and that it replays to the quoted PCRs."""

    def __post_init__(self) -> None:
        if self.snp is not None and self.tdx is not None:
            raise ValueError("snp, tdx: a VM has one of them; write two alternatives")
        check_pcr_references(self.pcrs)

    def rules(self) -> tuple[Rule, ...]:
        """The demands on the facts of `examine_azure`."""
        rules: list[Rule] = [*self._hardware_rules(), *pcr_rules(self.pcrs, "azure")]
        if not self.allow_no_secure_boot:
            why = "the VM boots whatever it finds; create it with secure boot, or set allow_no_secure_boot"
            rules.append(Within("vm_configuration", Equals("secure-boot", True, "azure.secure-boot", why)))
        if self.vm_ids:
            rules.append(Within("vm_configuration", OneOf("vmUniqueId", self.vm_ids, "azure.vm")))
        for name, value in sorted(self.vm_configuration.items()):
            demand = Equals(name, value, f"azure.{name}", "the policy demands it")
            rules.append(Within("vm_configuration", demand))
        if self.require_event_log:
            rules.append(Equals("log_replayed", True, "azure.log-demanded", "the policy demands the boot's event log"))
        return tuple(rules)

    def _hardware_rules(self) -> tuple[Rule, ...]:
        for part, policy in (("snp", self.snp), ("tdx", self.tdx)):
            if policy is not None and (rules := policy.rules()):
                return tuple(Within(part, rule) for rule in rules)
        return (NoHardwarePolicy(),)


@dataclass(frozen=True, slots=True)
class Within:
    """A rule over the facts in one part of the facts; without the part it fails."""

    part: str
    rule: Rule

    def check(self, facts: Facts) -> Check:
        inner = facts.get(self.part)
        if not isinstance(inner, Mapping):
            return Check(f"azure.{self.part}", Outcome.FAIL, f"the evidence has nothing of {self.part}")
        return self.rule.check(inner)


@dataclass(frozen=True, slots=True)
class NoHardwarePolicy:
    """Refuses: without a policy for the hardware the virtual TPM's key may be anybody's."""

    def check(self, facts: Facts) -> Check:
        return Check("azure.hardware", Outcome.FAIL, f"the policy has no table for {facts.get('tee', 'the hardware')}")
