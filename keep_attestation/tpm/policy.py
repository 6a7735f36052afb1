"""Which TPMs, and which states of the machines around them, a policy accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.rules import AtLeast, Equals, Facts, OneOf, Rule, show
from keep_attestation.tpm.structures import PCR_COUNT
from keep_attestation.tpm.trust import PRODUCTION_ANCHORS
from keep_attestation.verdict import Check, Outcome

PcrReferences: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Allowed values in hex, by bank ("sha256") and register ("0")."""

_BANKS = {bank.name.lower(): bank.digest_size for bank in HashAlgorithm if bank is not HashAlgorithm.SHA1}
_PCRS = frozenset(map(str, range(PCR_COUNT)))
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_NAME = re.compile(r"000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIRMWARE = re.compile(r"0x[0-9a-f]{1,16}")


class TpmPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One alternative of accepted TPMs. Without a reference value for at least one PCR everything is refused."""

    pcrs: PcrReferences = {}
    """By bank and register the values that are allowed, in hex: `[tpm.pcrs.sha256]` with `7 = ["…"]`. SHA-1 banks are
    not accepted: two machines' states could collide."""
    ak_names: tuple[str, ...] = ()
    """Names (hex, with nameAlg) of attestation keys that were tied to their TPM, by an activated credential or by
    seeing the machine."""
    ak_roots: tuple[str, ...] = ("google",)
    """Roots under which attestation keys' certificates are believed: "google", or the SHA-256 of a root certificate."""
    ek_roots: tuple[str, ...] = ("google",)
    """Roots of TPM makers, in the same way: needed for keys that `ak_names` pins."""
    allow_unknown_ek: bool = False
    """Accept a pinned attestation key without an endorsement certificate under `ek_roots`. A software TPM, of which the
    host knows the keys, looks like this. For development, and for makers whose root is not at hand."""
    google_projects: tuple[str, ...] = ()
    """Compute Engine projects, by id, that the attestation key must be certified for; empty: any."""
    firmware_versions: tuple[str, ...] = ()
    """The TPM firmware's versions, as "0x2016051100162800"; empty: any."""
    require_safe_clock: bool = False
    """Refuse quotes whose clock may have been as high before, which is so for a while after power was lost."""
    minimum_reset_count: int = 0
    """How often the TPM must have been reset (the machine booted) at least: refuses states from before a known boot."""
    require_event_log: bool = False
    """Demand the boot's event log, and that it replays to the quoted PCRs."""

    def __post_init__(self) -> None:
        check_pcr_references(self.pcrs)
        for name in self.ak_names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"ak_names: {show(name)!r} is no name of a key; it is 000b and 64 digits of lower-case hex, "
                    "as `tpm2_readpublic` prints it"
                )
        for field, roots in (("ak_roots", self.ak_roots), ("ek_roots", self.ek_roots)):
            for root in roots:
                if root not in PRODUCTION_ANCHORS.values() and not _SHA256.fullmatch(root):
                    known = ", ".join(sorted(set(PRODUCTION_ANCHORS.values())))
                    raise ValueError(f"{field}: {show(root)!r} is neither {known} nor a SHA-256 in lower-case hex")
        for version in self.firmware_versions:
            if not _FIRMWARE.fullmatch(version):
                raise ValueError(f"firmware_versions: {show(version)!r} is no number in lower-case hex after 0x")
        if self.minimum_reset_count < 0:
            raise ValueError("minimum_reset_count: it cannot be negative")

    def rules(self) -> tuple[Rule, ...]:
        """The demands on the facts of `examine_tpm`."""
        rules: list[Rule] = [
            *pcr_rules(self.pcrs, "tpm"),
            KnownKey(self.ak_names, self.ak_roots, self.ek_roots, self.allow_unknown_ek),
        ]
        if self.google_projects:
            rules.append(OneOf("google_project", self.google_projects, "tpm.google-project"))
        if self.firmware_versions:
            rules.append(OneOf("firmware", self.firmware_versions, "tpm.firmware"))
        if self.require_safe_clock:
            rules.append(Equals("safe", True, "tpm.clock", "power was lost; ask again after the clock was saved"))
        if self.minimum_reset_count:
            rules.append(AtLeast("reset_count", self.minimum_reset_count, "tpm.reset-count"))
        if self.require_event_log:
            rules.append(Equals("log_replayed", True, "tpm.log-demanded", "the policy demands the boot's event log"))
        return tuple(rules)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """The attestation key is certified under an accepted root, or pinned by name with its TPM's maker known."""

    names: tuple[str, ...]
    roots: tuple[str, ...]
    ek_roots: tuple[str, ...]
    allow_unknown_ek: bool

    def check(self, facts: Facts) -> Check:
        name, root, ek_root = facts.get("ak_name"), facts.get("ak_root"), facts.get("ek_root")
        if root is not None and root in self.roots:
            # Attributes are the host's word until a name proves them. Google certifies primary keys, of which the TPM
            # itself writes the name, within its path, into every quote.
            if root == "google" and facts.get("ak_hierarchy") != "endorsement":
                return Check(
                    "tpm.trust",
                    Outcome.FAIL,
                    "Google certifies primary keys of the endorsement hierarchy; the quote's signer is not the "
                    "attestation key as one of these: its attributes were changed",
                )
            return Check("tpm.trust", Outcome.PASS, f"the attestation key is certified under the root {show(root)}")
        if name is None or name not in self.names:
            return Check(
                "tpm.trust",
                Outcome.FAIL,
                f"the attestation key {name} is not pinned (ak_names has {len(self.names)} others), and its "
                f"certificate's root is {show(root)}, none of {', '.join(map(show, self.roots)) or 'no roots'}",
            )
        if ek_root is not None and ek_root in self.ek_roots:
            return Check("tpm.trust", Outcome.PASS, f"the attestation key is pinned, its TPM is of {show(ek_root)}")
        if self.allow_unknown_ek:
            return Check("tpm.trust", Outcome.PASS, "the attestation key is pinned; TPMs of unknown makers are allowed")
        return Check(
            "tpm.trust",
            Outcome.FAIL,
            f"the attestation key is pinned, but its TPM's maker is not known (root {show(ek_root)}): it may be a "
            "software TPM; add its maker's root to ek_roots, or set allow_unknown_ek",
        )


@dataclass(frozen=True, slots=True)
class PcrOneOf:
    """The quoted register of this bank has one of the `allowed` values; with none allowed everything is refused."""

    bank: str
    register: str
    allowed: tuple[str, ...]
    kind: str

    def check(self, facts: Facts) -> Check:
        name = f"{self.kind}.pcr{self.register}"
        value = facts.get("pcrs", {}).get(self.bank, {}).get(self.register)
        if value is not None and value in self.allowed:
            return Check(name, Outcome.PASS, f"PCR {self.register} ({self.bank}) {show(value)} is allowed")
        return Check(
            name,
            Outcome.FAIL,
            f"PCR {self.register} ({self.bank}) is {value or 'not quoted'}, none of the {len(self.allowed)} allowed",
        )


@dataclass(frozen=True, slots=True)
class NoReference:
    """Refuses: the policy names no value to compare with."""

    kind: str

    def check(self, facts: Facts) -> Check:
        return Check(f"{self.kind}.pcrs", Outcome.FAIL, "the policy has no reference value for any PCR: give `pcrs`")


def pcr_rules(references: PcrReferences, kind: str) -> tuple[Rule, ...]:
    """One rule for each register that `references` names; a refusal if it names none."""
    rules = tuple(
        PcrOneOf(bank, register, tuple(allowed), kind)
        for bank, registers in sorted(references.items())
        for register, allowed in sorted(registers.items())
    )
    return rules or (NoReference(kind),)


def check_pcr_references(references: PcrReferences) -> None:
    """Raises `ValueError` that names the field and the remedy."""
    for bank, registers in references.items():
        if bank not in _BANKS:
            raise ValueError(f"pcrs: {show(bank)!r} is no accepted bank; write one of {', '.join(sorted(_BANKS))}")
        for register, allowed in registers.items():
            if register not in _PCRS:
                raise ValueError(f"pcrs: {show(register)!r} is no register; write a number from 0 to {PCR_COUNT - 1}")
            for value in allowed:
                if len(value) != 2 * _BANKS[bank] or not _HEX.fullmatch(value):
                    raise ValueError(
                        f"pcrs: {show(value)!r} for PCR {register} is not {_BANKS[bank]} bytes in lower-case hex"
                    )
