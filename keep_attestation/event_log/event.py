"""One event of a TCG log, and the numbers that it is written in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class HashAlgorithm(IntEnum):
    """TPM_ALG_ID of hashes (TCG Algorithm Registry)."""

    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D

    @property
    def digest_size(self) -> int:
        """In bytes."""
        return int(hashlib.new(self.name.lower()).digest_size)

    def digest(self, data: bytes) -> bytes:
        return hashlib.new(self.name.lower(), data).digest()

    @classmethod
    def known(cls, number: int) -> HashAlgorithm | None:
        """The algorithm with TPM_ALG_ID `number`; None if it is none of these (SM3, SHA-3, …)."""
        try:
            return cls(number)
        except ValueError:
            return None


class EventType(IntEnum):
    """TCG PC Client Platform Firmware Profile 1.06, table 27."""

    EV_PREBOOT_CERT = 0x00
    EV_POST_CODE = 0x01
    EV_NO_ACTION = 0x03
    EV_SEPARATOR = 0x04
    EV_ACTION = 0x05
    EV_EVENT_TAG = 0x06
    EV_S_CRTM_CONTENTS = 0x07
    EV_S_CRTM_VERSION = 0x08
    EV_CPU_MICROCODE = 0x09
    EV_PLATFORM_CONFIG_FLAGS = 0x0A
    EV_TABLE_OF_DEVICES = 0x0B
    EV_COMPACT_HASH = 0x0C
    EV_IPL = 0x0D
    EV_IPL_PARTITION_DATA = 0x0E
    EV_NONHOST_CODE = 0x0F
    EV_NONHOST_CONFIG = 0x10
    EV_NONHOST_INFO = 0x11
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x12
    EV_POST_CODE2 = 0x13
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001
    EV_EFI_VARIABLE_BOOT = 0x8000_0002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x8000_0004
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005
    EV_EFI_GPT_EVENT = 0x8000_0006
    EV_EFI_ACTION = 0x8000_0007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008
    EV_EFI_HANDOFF_TABLES = 0x8000_0009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000_000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000_000C
    EV_EFI_GPT_EVENT2 = 0x8000_000D
    EV_EFI_HCRTM_EVENT = 0x8000_0010
    EV_EFI_VARIABLE_AUTHORITY = 0x8000_00E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x8000_00E1
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00E2


@dataclass(frozen=True, slots=True)
class Event:
    """As the log says; nothing in it is verified."""

    register: int
    """A PCR's number; in CCEL logs 1 to 4 for RTMR0 to RTMR3 (0 is MRTD)."""
    type: EventType | int
    """A plain int where the type is not known here."""
    digests: Mapping[int, bytes]
    """By TPM_ALG_ID; `HashAlgorithm` members are such."""
    data: bytes
