"""Rules that only SNP needs: over chips, TCBs by processor, endorsement keys and firmware versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from keep_attestation.rules import Facts, show
from keep_attestation.snp.products import Processor, Product
from keep_attestation.snp.vek import EndorsementKey
from keep_attestation.verdict import Check, Outcome


@dataclass(frozen=True, slots=True)
class TcbAtLeast:
    """Every part of the TCB named `tcb` reaches the level that `minimum` has for this processor."""

    tcb: str
    minimum: Mapping[str, Mapping[str, int]]
    """By processor, by part."""
    check_name: str

    def check(self, facts: Facts) -> Check:
        if not self.minimum:
            return Check(self.check_name, Outcome.NOTE, f"the policy sets no minimum, so the {self.tcb} is not judged")
        processor = facts.get("processor")
        levels = self.minimum.get(str(processor))
        if levels is None and processor == Processor.BERGAMO_SIENA:
            levels = self.minimum.get(Processor.GENOA)
        if levels is None:
            return Check(self.check_name, Outcome.FAIL, f"the policy sets no minimum for a {show(processor)}")
        for part, level in levels.items():
            value = facts.get(f"{self.tcb}_{part}")
            if type(value) is not int or value < level:
                return Check(
                    self.check_name,
                    Outcome.FAIL,
                    f"{part} of the {self.tcb} is {show(value)}, below {level}; the host's firmware needs an update",
                )
        return Check(self.check_name, Outcome.PASS, f"the {self.tcb} reaches the minimum for {processor}")


@dataclass(frozen=True, slots=True)
class ChipAllowed:
    """The chip is one of `chip_ids`; without any, every chip is, except a Milan unless `allow_any_milan`."""

    chip_ids: Collection[str]
    allow_any_milan: bool
    check_name: str

    def check(self, facts: Facts) -> Check:
        chip_id = facts.get("chip_id")
        if self.chip_ids:
            if facts.get("endorsement_key") != EndorsementKey.VCEK:
                reason = "the policy names chips, and evidence without a VCEK is not proven to be from one"
                return Check(self.check_name, Outcome.FAIL, reason)
            if chip_id in self.chip_ids:
                return Check(self.check_name, Outcome.PASS, f"chip {show(chip_id)} is allowed")
            reason = f"chip {show(chip_id)} is none of the {len(self.chip_ids)} allowed"
            return Check(self.check_name, Outcome.FAIL, reason)
        product = facts.get("product")
        if product in (Product.GENOA, Product.TURIN):
            return Check(self.check_name, Outcome.PASS, f"every {product} is allowed")
        if product != Product.MILAN:
            return Check(self.check_name, Outcome.FAIL, "the product is not known, so neither is the chip")
        if self.allow_any_milan:
            return Check(self.check_name, Outcome.PASS, "the policy allows every Milan")
        return Check(
            self.check_name,
            Outcome.FAIL,
            "a Milan's keys can be extracted by software, so a report is worth as much as the trust in its chip: "
            "name the chip in chip_ids, or set allow_any_milan",
        )


@dataclass(frozen=True, slots=True)
class EndorsementKeyAllowed:
    """A chip's own key signed, or the VLEK of one of the providers `csp_ids`."""

    csp_ids: Collection[str]
    check_name: str

    def check(self, facts: Facts) -> Check:
        key, csp_id = facts.get("endorsement_key"), facts.get("csp_id")
        if key == EndorsementKey.VCEK:
            return Check(self.check_name, Outcome.PASS, "the chip's own key signed")
        if key == EndorsementKey.VLEK and csp_id is not None and csp_id in self.csp_ids:
            return Check(self.check_name, Outcome.PASS, f"the VLEK of {csp_id} is allowed")
        if key == EndorsementKey.VLEK:
            return Check(
                self.check_name,
                Outcome.FAIL,
                f"a VLEK of {csp_id or 'an unknown provider'} signed, and vlek_csp_ids does not name it",
            )
        return Check(self.check_name, Outcome.FAIL, "neither a VCEK nor a VLEK signed")


@dataclass(frozen=True, slots=True)
class FirmwareAtLeast:
    """The committed firmware is of version `minimum` or later."""

    minimum: tuple[int, ...]
    check_name: str

    def check(self, facts: Facts) -> Check:
        version = facts.get("com_ver")
        if isinstance(version, list) and tuple(version)[: len(self.minimum)] >= self.minimum:
            return Check(self.check_name, Outcome.PASS, f"committed firmware {_dotted(version)} is recent enough")
        committed = _dotted(version) if isinstance(version, list) else "absent"
        return Check(
            self.check_name, Outcome.FAIL, f"committed firmware is {committed}, below {_dotted(list(self.minimum))}"
        )


@dataclass(frozen=True, slots=True)
class FirmwareNotProvisional:
    """The running firmware is the committed one, so that the host cannot go back to an older."""

    check_name: str

    def check(self, facts: Facts) -> Check:
        for current, committed in (("cur_ver", "com_ver"), ("current_tcb", "committed_tcb")):
            if facts.get(current) is None or facts.get(current) != facts.get(committed):
                return Check(
                    self.check_name,
                    Outcome.FAIL,
                    f"{current} {show(facts.get(current))} is not committed, {show(facts.get(committed))} is: "
                    "the host may go back to it",
                )
        return Check(self.check_name, Outcome.PASS, "the running firmware is committed")


@dataclass(frozen=True, slots=True)
class AbiAtLeast:
    """The guest policy demands firmware of this ABI version or later."""

    major: int
    minor: int
    check_name: str

    def check(self, facts: Facts) -> Check:
        major, minor = facts.get("abi_major"), facts.get("abi_minor")
        if isinstance(major, int) and isinstance(minor, int):
            outcome = Outcome.PASS if (major, minor) >= (self.major, self.minor) else Outcome.FAIL
            reason = f"the guest policy demands firmware ABI {major}.{minor}; wanted is {self.major}.{self.minor}"
            return Check(self.check_name, outcome, reason)
        return Check(self.check_name, Outcome.FAIL, "the guest policy's ABI version is absent")


@dataclass(frozen=True, slots=True)
class HasBits:
    """The fact is a number that has all of `bits`."""

    fact: str
    bits: int
    check_name: str

    def check(self, facts: Facts) -> Check:
        value = facts.get(self.fact)
        if type(value) is int and value & self.bits == self.bits:
            return Check(self.check_name, Outcome.PASS, f"{self.fact} {value:#x} has {self.bits:#x}")
        shown = f"{value:#x}" if type(value) is int else show(value)
        return Check(self.check_name, Outcome.FAIL, f"{self.fact} is {shown}; bits {self.bits:#x} are demanded")


def _dotted(version: list[int]) -> str:
    return ".".join(map(str, version))
