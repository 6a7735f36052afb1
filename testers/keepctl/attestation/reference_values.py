"""From what evidence says to a policy that accepts it: the values that somebody has looked at become the reference.

Nothing here weakens a policy: a debug flag, an outdated platform or an unknown TPM in the evidence stays refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keep_attestation.policy import Policy, policy_from
from keep_attestation.verdict import Check
from keep_protocol.evidence import EvidenceKind

Facts = Mapping[str, Any]
Table = dict[str, Any]

_STABLE_PCRS = frozenset(map(str, (*range(10), 11, 12, 13, 14, 15)))
"""Not 10, which grows with every file that IMA measures, nor 16 and above, which software may reset."""


def reference_values(kind: EvidenceKind, facts: Facts, *, pin: bool) -> Table:
    """The kind's table of a policy; with `pin` for this one machine alone. Empty when the facts have no measurement."""
    match kind:
        case EvidenceKind.SNP:
            return _snp(facts, pin)
        case EvidenceKind.TDX:
            return _tdx(facts, pin)
        case EvidenceKind.SGX:
            return _sgx(facts, pin)
        case EvidenceKind.NITRO:
            return _nitro(facts, pin)
        case EvidenceKind.TPM:
            return _tpm(facts, pin)
        case EvidenceKind.AZURE_SNP:
            return _azure("snp", _snp(facts.get("snp", {}), pin), facts, pin)
        case EvidenceKind.AZURE_TDX:
            return _azure("tdx", _tdx(facts.get("tdx", {}), pin), facts, pin)
        case EvidenceKind.SIMULATED:
            return _listed(facts, {"measurements": "measurement"})


class PolicyOfWhatIsThere(Policy, frozen=True):
    """Judges evidence of any kind by the reference values that it gives itself: only what no values can excuse fails.

    For looking at a keep before anything is trusted; it must never decide about anything else.
    """

    def alternatives(self, kind: EvidenceKind) -> tuple[Any, ...]:
        return (self,)

    def demanded(self, kind: EvidenceKind, facts: Facts) -> Table:
        """The table to judge by, and to pin."""
        return reference_values(kind, facts, pin=True)

    def appraise(self, kind: EvidenceKind, facts: Facts) -> tuple[Check, ...]:
        policy = policy_from({"name": self.name, kind.value: self.demanded(kind, facts)})
        return policy.appraise(kind, facts)


def _snp(facts: Facts, pin: bool) -> Table:
    table = _listed(facts, {"measurements": "measurement"})
    table |= _unless_zero(
        facts,
        {"host_data": "host_data", "id_key_digests": "id_key_digest", "author_key_digests": "author_key_digest"},
    )
    if pin or facts.get("processor") == "Milan":
        table |= _unless_zero(facts, {"chip_ids": "chip_id"})
    if facts.get("platform_alias_check_complete") is True:
        table["required_platform"] = ["alias_check_complete"]
    processor = facts.get("processor")
    levels = {part: facts.get(f"reported_tcb_{part}") for part in ("fmc", "bl", "tee", "snp", "ucode")}
    if processor is not None:
        table["minimum_tcb"] = {processor: {part: level for part, level in levels.items() if level}}
    return table


def _tdx(facts: Facts, pin: bool) -> Table:
    measured = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    table = _listed(facts, {name: name for name in measured})
    table |= _unless_zero(facts, {name: name for name in ("mr_config_id", "mr_owner", "mr_owner_config")})
    return table | _platform(facts, pin)


def _sgx(facts: Facts, pin: bool) -> Table:
    table = _listed(facts, {"mr_enclaves": "mr_enclave"}) | _unless_zero(facts, {"config_ids": "config_id"})
    return table | _platform(facts, pin)


def _platform(facts: Facts, pin: bool) -> Table:
    table: Table = {}
    number = facts.get("tcb_evaluation_number")
    if isinstance(number, int):
        table["minimum_tcb_evaluation_number"] = max(number, 17)
    return table | (_listed(facts, {"ppids": "ppid"}) if pin else {})


def _nitro(facts: Facts, pin: bool) -> Table:
    registers = ("0", "1", "2", "8", *(("3", "4") if pin else ()))
    values = {index: facts.get("pcrs", {}).get(index) for index in registers}
    # PCR 0 of zeros is any debug enclave, and no policy may name it.
    return {"pcrs": {index: [value] for index, value in values.items() if value and value.strip("0")}}


def _tpm(facts: Facts, pin: bool) -> Table:
    table: Table = {"pcrs": _pcrs(facts)}
    if pin or facts.get("ak_root") is None:
        table |= _listed(facts, {"ak_names": "ak_name"})
    if facts.get("ak_root") is None:
        # An endorsement certificate that came along may be any TPM's: nothing in the evidence ties the key to it.
        table["ek_roots"] = []
    return table


def _azure(part: str, hardware: Table, facts: Facts, pin: bool) -> Table:
    table: Table = {part: hardware, "pcrs": _pcrs(facts)}
    if pin and (vm_id := facts.get("vm_configuration", {}).get("vmUniqueId")):
        table["vm_ids"] = [vm_id]
    return table


def _pcrs(facts: Facts) -> Table:
    return {
        bank: {register: [value] for register, value in values.items() if register in _STABLE_PCRS}
        for bank, values in facts.get("pcrs", {}).items()
        # Two machines' SHA-1 states could collide, and policies take none.
        if bank != "sha1"
    }


def _listed(facts: Facts, names: Mapping[str, str]) -> Table:
    return {field: [facts[fact]] for field, fact in names.items() if facts.get(fact)}


def _unless_zero(facts: Facts, names: Mapping[str, str]) -> Table:
    return {field: [facts[fact]] for field, fact in names.items() if str(facts.get(fact) or "").strip("0")}
