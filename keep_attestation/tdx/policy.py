"""What a policy may demand of Intel TDX evidence."""

from __future__ import annotations

from enum import StrEnum

from keep_attestation.intel.policy import PlatformPolicy, check_hex, lower
from keep_attestation.rules import Equals, OneOf, Rule
from keep_protocol.evidence import EvidenceKind

_ANY = ("any",)
_ZERO = ("00" * 48,)
_REGISTERS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


class TdAttributeName(StrEnum):
    """Bits of TD_ATTRIBUTES, by the names of their facts."""

    DEBUG = "debug"
    LASS = "lass"
    SEPT_VE_DISABLE = "sept_ve_disable"
    MIGRATABLE = "migratable"
    PKS = "pks"
    KEY_LOCKER = "key_locker"
    PERFMON = "perfmon"


class TdxPolicy(PlatformPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[tdx]` table. Measurements are 96 hex digits (SHA-384).

    A register without allowed values refuses everything; `["any"]` says that it is deliberately not looked at.
    """

    mr_td: tuple[str, ...] = ()
    """The TD as it was built: its firmware. Needed; `any` is not accepted here."""
    rtmr0: tuple[str, ...] = ()
    """Firmware configuration, ACPI tables, Secure Boot variables."""
    rtmr1: tuple[str, ...] = ()
    """Boot loader and kernel."""
    rtmr2: tuple[str, ...] = ()
    """Kernel command line, initrd."""
    rtmr3: tuple[str, ...] = ()
    """What the system or the workload extends at run time."""
    mr_config_id: tuple[str, ...] = _ZERO
    """Configuration that the host gave; zero unless named."""
    mr_owner: tuple[str, ...] = _ZERO
    mr_owner_config: tuple[str, ...] = _ZERO
    mr_seam: tuple[str, ...] = ()
    """TDX modules; left out, each that Intel's collateral vouches for."""
    xfam: tuple[str, ...] = ()
    """Extended features that the TD may use (16 hex digits); left out, all."""
    required_attributes: tuple[TdAttributeName, ...] = (TdAttributeName.SEPT_VE_DISABLE,)
    forbidden_attributes: tuple[TdAttributeName, ...] = (TdAttributeName.MIGRATABLE,)
    """Besides `debug`, which is always forbidden: the host reads a debug TD's memory."""
    require_event_log: bool = False
    """Whether an event log must come along that replays to the registers. One that comes is always replayed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "mr_seam"):
            check_hex(field, getattr(self, field), 48)
        for field in _REGISTERS:
            if getattr(self, field) != _ANY:
                check_hex(field, getattr(self, field), 48)
        check_hex("xfam", self.xfam, 8)
        if TdAttributeName.DEBUG in self.required_attributes:
            raise ValueError("required_attributes: debug cannot be required; a debug TD has no secrets")

    def rules(self) -> tuple[Rule, ...]:
        rules: list[Rule] = [OneOf("mr_td", lower(self.mr_td), "tdx.mr_td")]
        for field in _REGISTERS:
            allowed: tuple[str, ...] = getattr(self, field)
            if allowed != _ANY:
                rules.append(OneOf(field, lower(allowed), f"tdx.{field}"))
        for field in ("mr_config_id", "mr_owner", "mr_owner_config"):
            rules.append(OneOf(field, lower(getattr(self, field)), f"tdx.{field}"))
        for field in ("mr_seam", "xfam"):
            if allowed := getattr(self, field):
                rules.append(OneOf(field, lower(allowed), f"tdx.{field}"))
        rules.append(Equals("debug", False, "tdx.debug", "the host reads and writes the memory of a debug TD"))
        for attribute in self.required_attributes:
            rules.append(Equals(attribute.value, True, f"tdx.{attribute}", "the policy requires this TD attribute"))
        for attribute in self.forbidden_attributes:
            rules.append(Equals(attribute.value, False, f"tdx.{attribute}", "the policy forbids this TD attribute"))
        if self.require_event_log:
            rules.append(Equals("log_replayed", True, "tdx.log", "the policy requires an event log that replays"))
        return (*rules, *self.platform_rules(EvidenceKind.TDX))
