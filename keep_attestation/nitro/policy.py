"""Which Nitro enclaves a policy accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha384

import msgspec

from keep_attestation.rules import AtMost, Equals, Facts, OneOf, Rule, show
from keep_attestation.verdict import Check, Outcome

_PCR_HEX = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})")
_PCRS = frozenset(map(str, range(32)))


class NitroPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One alternative of accepted enclaves. Without a reference value for PCR 0 everything is refused."""

    pcrs: Mapping[str, tuple[str, ...]] = {}
    """By register number ("0" the image, "1" kernel and boot, "2" application, "8" the image's signer): the values that
    are allowed, in hex, as `nitro-cli build-enclave` prints them. "0" is demanded."""
    allow_debug: bool = False
    """Accept enclaves in debug mode, whose console and memory the parent instance reads. For development."""
    max_age_seconds: int = 3 * 3600
    """How long ago the document may have been made; more than 3 hours is beyond its certificate's life."""
    instance_ids: tuple[str, ...] = ()
    """EC2 instances, e.g. "i-0123456789abcdef0", of which PCR 4 must be the measurement; empty: any."""
    role_arns: tuple[str, ...] = ()
    """IAM roles of the parent instance, of which PCR 3 must be the measurement; empty: any."""
    module_ids: tuple[str, ...] = ()
    """Single enclaves, e.g. "i-0123456789abcdef0-enc0123456789abcdef"; empty: any."""

    def __post_init__(self) -> None:
        for index, values in self.pcrs.items():
            if index not in _PCRS:
                raise ValueError(f"pcrs: {index!r} is no register; write a number from 0 to 31")
            for value in values:
                if not _PCR_HEX.fullmatch(value):
                    raise ValueError(
                        f"pcrs: {show(value)!r} for PCR {index} is not 32, 48 or 64 bytes in lower-case hex; "
                        "take what nitro-cli build-enclave prints"
                    )
                if not value.strip("0") and index == "0" and not self.allow_debug:
                    raise ValueError("pcrs: PCR 0 of zeros is any debug enclave; give the image's measurement")
        if self.max_age_seconds <= 0:
            raise ValueError("max_age_seconds: it must be above 0; leave it out for 3 hours")

    def rules(self) -> tuple[Rule, ...]:
        """The demands on the facts of `examine_nitro`."""
        demanded = {"0": (), **self.pcrs}
        rules: list[Rule] = [RegisterOneOf(index, tuple(values)) for index, values in sorted(demanded.items())]
        if not self.allow_debug:
            why = "the parent instance reads a debug enclave's memory; start it without --debug-mode"
            rules.append(Equals("debug_mode", False, "nitro.debug", why))
        rules.append(AtMost("age_seconds", self.max_age_seconds, "nitro.age"))
        if self.instance_ids:
            rules.append(RegisterOneOf("4", tuple(map(measured_name, self.instance_ids)), "nitro.instance"))
        if self.role_arns:
            rules.append(RegisterOneOf("3", tuple(map(measured_name, self.role_arns)), "nitro.role"))
        if self.module_ids:
            rules.append(OneOf("module_id", self.module_ids, "nitro.module"))
        return tuple(rules)


@dataclass(frozen=True, slots=True)
class RegisterOneOf:
    """PCR `index` has one of the `allowed` values, in hex; with none allowed everything is refused."""

    index: str
    allowed: tuple[str, ...]
    check_name: str = ""

    def check(self, facts: Facts) -> Check:
        name = self.check_name or f"nitro.pcr{self.index}"
        value = facts.get("pcrs", {}).get(self.index)
        if not self.allowed:
            return Check(name, Outcome.FAIL, f"the policy names no allowed PCR {self.index}; it is {value or 'absent'}")
        if value in self.allowed:
            return Check(name, Outcome.PASS, f"PCR {self.index} {show(value)} is allowed")
        return Check(
            name, Outcome.FAIL, f"PCR {self.index} is {value or 'absent'}, none of the {len(self.allowed)} allowed"
        )


def measured_name(name: str) -> str:
    """What PCR 3 holds for a role's ARN and PCR 4 for an instance's id, in hex: SHA-384 extended from zero.

    Source: AWS Nitro Enclaves user guide, "Where to get an enclave's measurements".
    """
    return sha384(bytes(48) + name.encode()).hexdigest()
