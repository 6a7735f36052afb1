"""Predicts the launch digest of an SEV-SNP guest that QEMU starts with `kernel-hashes=on`.

Source: AMD, SEV-SNP ABI 1.58, section 8.17 (the digest's chain of pages); AMD64 Architecture Programmer's Manual,
volume 2, table B-4 (the save area); QEMU, target/i386/sev.c (what QEMU puts into them).
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import Final
from uuid import UUID

from keep_image.errors import MeasurementError
from keep_image.measurement.firmware import Firmware, SevSectionType

_PAGE: Final = 4096
_DIGEST: Final = 48
_PAGE_INFO: Final = 0x70
_SAVE_AREA_ADDRESS: Final = 0xFFFF_FFFF_F000
"""Where the save areas count as lying: the highest page of a 48-bit physical address space."""
_RESET_VECTOR: Final = 0xFFFF_FFF0
_SNP_FEATURES: Final = 0x1
"""SEV_FEATURES with SNP alone, as QEMU sets them from 9.1 on."""

_HASH_TABLE: Final = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_COMMAND_LINE_HASH: Final = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD_HASH: Final = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL_HASH: Final = UUID("4de79437-abd2-427f-b835-d5b172d2045b")

CPU_MODELS: Final = {
    "EPYC": (23, 1, 2),
    "EPYC-v4": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}
"""Family, model and stepping of QEMU's processor models; their versions (-v2 …) do not change these."""
DEFAULT_CPU_MODEL: Final = "EPYC-v4"


class _PageType(IntEnum):
    NORMAL = 1
    SAVE_AREA = 2
    ZERO = 3
    SECRETS = 5
    CPUID = 6


class _LaunchDigest:
    """The running digest: each page extends it with its type, address and content."""

    def __init__(self) -> None:
        self.value = bytes(_DIGEST)

    def add(self, kind: _PageType, address: int, content: bytes | None = None) -> None:
        """One page; without content what the page holds is not measured, only that it is there."""
        digest = bytes(_DIGEST) if content is None else hashlib.sha384(content).digest()
        info = struct.pack("<HBBBBBBQ", _PAGE_INFO, kind, 0, 0, 0, 0, 0, address)
        self.value = hashlib.sha384(self.value + digest + info).digest()


def launch_digest(
    firmware: bytes, kernel: bytes, initrd: bytes, command_line: str, *, vcpus: int, cpu_model: str = DEFAULT_CPU_MODEL
) -> bytes:
    """MEASUREMENT in the report of such a guest, 48 bytes. Raises `MeasurementError`."""
    if cpu_model not in CPU_MODELS:
        raise MeasurementError(f"{cpu_model!r} is no known CPU model; known are {', '.join(CPU_MODELS)}")
    if vcpus < 1:
        raise MeasurementError(f"a guest has at least one vCPU, not {vcpus}")
    image = Firmware(firmware)
    digest = _LaunchDigest()
    for offset in range(0, len(firmware), _PAGE):
        digest.add(_PageType.NORMAL, image.load_address + offset, firmware[offset : offset + _PAGE])
    hashes = _hash_table_page(image.hash_table_address % _PAGE, kernel, initrd, command_line)
    _add_sections(digest, image, hashes)
    for number in range(vcpus):
        start = _RESET_VECTOR if number == 0 else image.ap_reset_address
        digest.add(_PageType.SAVE_AREA, _SAVE_AREA_ADDRESS, _save_area(start, _signature(cpu_model)))
    return digest.value


def _add_sections(digest: _LaunchDigest, image: Firmware, hashes: bytes) -> None:
    measured = False
    for section in image.sev_sections():
        if section.type in {SevSectionType.SEC_MEMORY, SevSectionType.SVSM_CAA}:
            for offset in range(0, section.size, _PAGE):
                digest.add(_PageType.ZERO, section.address + offset)
        elif section.type == SevSectionType.SECRETS:
            digest.add(_PageType.SECRETS, section.address)
        elif section.type == SevSectionType.CPUID:
            digest.add(_PageType.CPUID, section.address)
        elif section.type == SevSectionType.KERNEL_HASHES:
            digest.add(_PageType.NORMAL, section.address, hashes)
            measured = True
        else:
            raise MeasurementError(f"the firmware has a section of type {section.type:#x}, which is not known here")
    if not measured:
        raise MeasurementError(
            "the firmware has no page for the kernel's hashes, so the kernel would not be measured: "
            "use OVMF.amdsev.fd (package ovmf-amdsev), or build OvmfPkg/AmdSev"
        )


def _hash_table_page(offset: int, kernel: bytes, initrd: bytes, command_line: str) -> bytes:
    entries = b"".join(
        name.bytes_le + struct.pack("<H", 50) + hashlib.sha256(content).digest()
        for name, content in (
            (_COMMAND_LINE_HASH, command_line.encode() + b"\0"),
            (_INITRD_HASH, initrd),
            (_KERNEL_HASH, kernel),
        )
    )
    table = _HASH_TABLE.bytes_le + struct.pack("<H", 18 + len(entries)) + entries
    table += bytes(-len(table) % 16)
    return bytes(offset) + table + bytes(_PAGE - offset - len(table))


def _signature(cpu_model: str) -> int:
    """CPUID 1, EAX, which is in EDX of a processor that was reset."""
    family, model, stepping = CPU_MODELS[cpu_model]
    low, high = (family, 0) if family <= 15 else (15, family - 15)
    return high << 20 | (model >> 4) << 16 | low << 8 | (model & 15) << 4 | stepping


def _save_area(start: int, signature: int) -> bytes:
    """The state that a processor begins in."""
    page = bytearray(_PAGE)

    def segment(offset: int, selector: int, attributes: int, limit: int, base: int = 0) -> None:
        struct.pack_into("<HHIQ", page, offset, selector, attributes, limit, base)

    def quad(offset: int, value: int) -> None:
        struct.pack_into("<Q", page, offset, value)

    for data in (0x00, 0x20, 0x30, 0x40, 0x50):  # ES, SS, DS, FS, GS
        segment(data, 0, 0x93, 0xFFFF)
    segment(0x10, 0xF000, 0x9B, 0xFFFF, start & 0xFFFF_0000)  # CS
    segment(0x60, 0, 0, 0xFFFF)  # GDTR
    segment(0x70, 0, 0x82, 0xFFFF)  # LDTR
    segment(0x80, 0, 0, 0xFFFF)  # IDTR
    segment(0x90, 0, 0x8B, 0xFFFF)  # TR
    quad(0xD0, 0x1000)  # EFER: SVME
    quad(0x148, 0x40)  # CR4: MCE
    quad(0x158, 0x10)  # CR0: ET
    quad(0x160, 0x400)  # DR7
    quad(0x168, 0xFFFF_0FF0)  # DR6
    quad(0x170, 0x2)  # RFLAGS
    quad(0x178, start & 0xFFFF)  # RIP
    quad(0x268, 0x7_0406_0007_0406)  # PAT
    quad(0x310, signature)  # RDX
    quad(0x3B0, _SNP_FEATURES)
    quad(0x3E8, 0x1)  # XCR0
    struct.pack_into("<I", page, 0x408, 0x1F80)  # MXCSR
    struct.pack_into("<H", page, 0x410, 0x37F)  # x87 control word
    return bytes(page)
