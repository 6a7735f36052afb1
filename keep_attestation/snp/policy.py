"""What a policy accepts of SEV-SNP evidence: reference values and demands, as in the TOML table `[snp]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, TypeAlias

import msgspec

from keep_attestation.rules import AllOf, AtLeast, AtMost, Equals, OneOf, Rule
from keep_attestation.snp.products import Processor
from keep_attestation.snp.report import NO_MIGRATION_AGENT
from keep_attestation.snp.rules import (
    AbiAtLeast,
    ChipAllowed,
    EndorsementKeyAllowed,
    FirmwareAtLeast,
    FirmwareNotProvisional,
    HasBits,
    TcbAtLeast,
)

_Level: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class GuestPolicyDemand(StrEnum):
    """Flags of the guest policy that an owner may insist on: what they forbid, the host cannot do to the guest."""

    SINGLE_SOCKET = "single_socket"
    MEM_AES_256_XTS = "mem_aes_256_xts"
    RAPL_DIS = "rapl_dis"
    CIPHERTEXT_HIDING = "ciphertext_hiding"
    PAGE_SWAP_DIS = "page_swap_dis"


class PlatformDemand(StrEnum):
    """Flags of the platform that an owner may insist on."""

    ECC = "ecc"
    TSME = "tsme"
    ALIAS_CHECK_COMPLETE = "alias_check_complete"
    """Against BadRAM (AMD-SB-3015)."""
    RAPL_DIS = "rapl_dis"
    CIPHERTEXT_HIDING = "ciphertext_hiding"
    TIO = "tio"


class MinimumTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The lowest accepted security patch level of each firmware part, 0 to 255; those left out are not judged."""

    fmc: _Level = 0
    """Turin only."""
    bl: _Level = 0
    tee: _Level = 0
    snp: _Level = 0
    ucode: _Level = 0


RECOMMENDED_MINIMUM_TCB: Mapping[Processor, MinimumTcb] = MappingProxyType(
    {
        # AMD-SB-3019 (EntrySign): below these levels microcode of anybody's can be loaded.
        Processor.MILAN: MinimumTcb(snp=0x18),
        Processor.GENOA: MinimumTcb(snp=0x17),
        Processor.BERGAMO_SIENA: MinimumTcb(snp=0x17),
        # No bulletin names a level that every Turin in the field is above.
        Processor.TURIN: MinimumTcb(),
    }
)
"""What a new policy file is written with. Not a default: levels age, so a policy must show its own."""

RECOMMENDED_PLATFORM = (PlatformDemand.ALIAS_CHECK_COMPLETE,)
"""As above; reports of version 2 are from firmware without the check."""


class SnpPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[snp]`. Hex values are in lower case. Debug-free guests without migration agent, on chips with their
    own key, are what is accepted unless a field says otherwise; a migration agent, which may move a guest to wherever
    it likes, is never accepted."""

    measurements: tuple[str, ...] = ()
    """Accepted launch measurements, 96 hex digits each. None given: everything is refused."""
    minimum_tcb: dict[Processor, MinimumTcb] = {}
    """By processor (`[snp.minimum_tcb.Milan]`, `Genoa`, `Bergamo-Siena`, `Turin`): what the reported TCB, for which the
    endorsement key was derived, must reach. With any table, processors without one are refused (Bergamo and Siena fall
    back on Genoa's); with none the TCB is not judged, and the verdict notes it."""
    minimum_launch_tcb: dict[Processor, MinimumTcb] = {}
    """The same for the TCB under which the guest was launched, which a later firmware update does not raise."""
    chip_ids: tuple[str, ...] = ()
    """Accepted chips, 128 hex digits each (Turin also 16). None given: every genuine chip, Milan's excepted."""
    allow_any_milan: bool = False
    """Accept Milan without `chip_ids`. The root of a Milan's keys can be extracted by software (arXiv 2605.12990): who
    had one chip in hand signs reports with any TCB and any content for it."""
    vlek_csp_ids: tuple[str, ...] = ()
    """Cloud providers whose VLEK is accepted, as in the certificate, e.g. `CN=cc-us-east-2.amazonaws.com`. None given:
    VLEKs are refused, since they say nothing of the chip."""
    allow_debug: bool = False
    """Accept guests that the host may read and change. Never in production."""
    max_vmpl: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    """The least privileged level whose report is accepted. Behind an SVSM guests run at a higher one than 0."""
    allow_smt: bool = True
    """Accept guests that may run beside other code on one core."""
    required_guest_policy: tuple[GuestPolicyDemand, ...] = ()
    """Flags that the guest policy must have, e.g. `single_socket`."""
    required_platform: tuple[PlatformDemand, ...] = ()
    """Flags that the platform must report, e.g. `alias_check_complete`."""
    minimum_guest_svn: _Number = 0
    """Of the ID block."""
    host_data: tuple[str, ...] = ()
    """Accepted HOST_DATA, 64 hex digits each. None given: not judged."""
    id_key_digests: tuple[str, ...] = ()
    """Accepted digests of the key that signed the ID block, 96 hex digits each. None given: not judged."""
    author_key_digests: tuple[str, ...] = ()
    """Accepted digests of the key that signed the ID key, 96 hex digits each. None given: not judged."""
    family_ids: tuple[str, ...] = ()
    """Of the ID block, 32 hex digits each. None given: not judged."""
    image_ids: tuple[str, ...] = ()
    """Of the ID block, 32 hex digits each. None given: not judged."""
    minimum_firmware: str | None = None
    """The SNP firmware that is committed, so that the host cannot go back below it: `major.minor` or
    `major.minor.build`, e.g. `1.55.29`."""
    minimum_abi: str | None = None
    """The lowest firmware ABI, `major.minor`, that the guest policy itself must demand."""
    allow_provisional_firmware: bool = True
    """Accept firmware that is loaded but not committed. Clouds update so; what counts is the reported TCB."""
    required_launch_mitigations: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Bits that the mitigation vector at launch must have; reports below version 5 have none."""
    required_current_mitigations: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Bits that the mitigation vector must have now; reports below version 5 have none."""

    def __post_init__(self) -> None:
        _require_hex("measurements", self.measurements, 96)
        _require_hex("chip_ids", self.chip_ids, 128, 16)
        _require_hex("host_data", self.host_data, 64)
        _require_hex("id_key_digests", self.id_key_digests, 96)
        _require_hex("author_key_digests", self.author_key_digests, 96)
        _require_hex("family_ids", self.family_ids, 32)
        _require_hex("image_ids", self.image_ids, 32)
        # A masked chip reports zeros; as a list entry they would stand for every such chip.
        if any(not chip_id.strip("0") for chip_id in self.chip_ids):
            raise ValueError(
                "snp.chip_ids: an id of zeros is no chip; a host that masks the id cannot be allowed by it"
            )
        if "" in self.vlek_csp_ids:
            raise ValueError("snp.vlek_csp_ids: an empty name is no provider; write it as the certificate does")
        _version("minimum_firmware", self.minimum_firmware, parts=(2, 3))
        _version("minimum_abi", self.minimum_abi, parts=(2,))

    def rules(self) -> tuple[Rule, ...]:
        """Every demand over the facts of `keep_attestation.snp.facts`."""
        rules: list[Rule] = [
            OneOf("measurement", self.measurements, "snp.measurement"),
            AllOf(
                (
                    Equals("migrate_ma", False, "", "a migration agent may be associated"),
                    Equals("report_id_ma", NO_MIGRATION_AGENT.hex(), "", "a migration agent is associated"),
                ),
                "snp.migration_agent",
            ),
            AtMost("vmpl", self.max_vmpl, "snp.vmpl"),
            EndorsementKeyAllowed(self.vlek_csp_ids, "snp.endorsement_key_allowed"),
            ChipAllowed(
                frozenset(chip_id.ljust(128, "0") for chip_id in self.chip_ids),
                self.allow_any_milan,
                "snp.chip_allowed",
            ),
            TcbAtLeast("reported_tcb", _levels(self.minimum_tcb), "snp.minimum_tcb"),
        ]
        if self.minimum_launch_tcb:
            rules.append(TcbAtLeast("launch_tcb", _levels(self.minimum_launch_tcb), "snp.minimum_launch_tcb"))
        if not self.allow_debug:
            rules.append(Equals("debug", False, "snp.debug", "the host may read and change the guest's memory"))
        if not self.allow_smt:
            rules.append(Equals("smt", False, "snp.smt", "the guest may share a core with other code"))
        rules += (
            Equals(flag.value, True, "snp.guest_policy", "the owner's launch did not demand it")
            for flag in self.required_guest_policy
        )
        rules += (
            Equals(f"platform_{flag.value}", True, "snp.platform", "the host's configuration or firmware lacks it")
            for flag in self.required_platform
        )
        if self.minimum_guest_svn:
            rules.append(AtLeast("guest_svn", self.minimum_guest_svn, "snp.guest_svn"))
        for fact, allowed in (
            ("host_data", self.host_data),
            ("id_key_digest", self.id_key_digests),
            ("family_id", self.family_ids),
            ("image_id", self.image_ids),
        ):
            if allowed:
                rules.append(OneOf(fact, allowed, f"snp.{fact}"))
        if self.author_key_digests:
            rules.append(Equals("author_key_en", True, "snp.author_key", "no author key signed the ID key"))
            rules.append(OneOf("author_key_digest", self.author_key_digests, "snp.author_key"))
        if self.minimum_firmware is not None:
            minimum = _version("minimum_firmware", self.minimum_firmware, parts=(2, 3))
            rules.append(FirmwareAtLeast(minimum, "snp.firmware"))
        if self.minimum_abi is not None:
            major, minor = _version("minimum_abi", self.minimum_abi, parts=(2,))
            rules.append(AbiAtLeast(major, minor, "snp.abi"))
        if not self.allow_provisional_firmware:
            rules.append(FirmwareNotProvisional("snp.provisional_firmware"))
        for fact, bits in (
            ("launch_mit", self.required_launch_mitigations),
            ("cur_mit", self.required_current_mitigations),
        ):
            if bits:
                rules.append(HasBits(fact, bits, "snp.mitigations"))
        return tuple(rules)


def _levels(table: Mapping[Processor, MinimumTcb]) -> dict[str, dict[str, int]]:
    return {
        processor.value: {k: v for k, v in msgspec.structs.asdict(tcb).items() if v} for processor, tcb in table.items()
    }


def _require_hex(field: str, values: tuple[str, ...], *digits: int) -> None:
    for value in values:
        if len(value) not in digits or not re.fullmatch("[0-9a-f]+", value):
            lengths = " or ".join(map(str, digits))
            raise ValueError(f"snp.{field}: {value[:128]!r} is not {lengths} hex digits in lower case")


def _version(field: str, text: str | None, parts: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return ()
    numbers = text.split(".")
    if len(numbers) not in parts or not all(re.fullmatch("[0-9]{1,3}", number) for number in numbers):
        example = "1.55.29" if 3 in parts else "1.55"
        raise ValueError(f"snp.{field}: {text[:64]!r} is no version; write it as {example!r}")
    return tuple(map(int, numbers))
