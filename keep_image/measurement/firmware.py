"""Reads what OVMF says about itself: the table of GUIDs at its end, and the memory sections of SNP and TDX.

Source: edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and X64/OvmfSevMetadata.asm; Intel, TDX Virtual Firmware
Design Guide, section 11.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from uuid import UUID

from keep_image.errors import MeasurementError

_FOOTER: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_SEV_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_SEV_HASH_TABLE: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_SEV_ES_RESET: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

_FOOTER_END: Final = 32
"""Bytes of the reset vector behind the table."""
_ENTRY_HEADER: Final = 18


class SevSectionType(IntEnum):
    """What a section of SEV metadata asks the host to put there."""

    SEC_MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


@dataclass(frozen=True)
class SevSection:
    """Guest memory that is prepared before the first instruction."""

    address: int
    size: int
    type: int


@dataclass(frozen=True)
class TdxSection:
    """A part of the firmware, or of memory, that is added to a TD when it is built."""

    file_offset: int
    file_size: int
    address: int
    size: int
    type: int
    attributes: int


class Firmware:
    """One build of OVMF."""

    def __init__(self, content: bytes) -> None:
        """Raises `MeasurementError` for what is no OVMF."""
        self.content = content
        self._table = _read_table(content)

    @property
    def load_address(self) -> int:
        """Where it lies in guest memory: it ends at 4 GiB."""
        return (1 << 32) - len(self.content)

    def sev_sections(self) -> list[SevSection]:
        """Raises `MeasurementError` for a firmware without SNP."""
        start = self._metadata(_SEV_METADATA, b"ASEV", "SEV-SNP")
        count = self._u32(start + 12)
        return [SevSection(*struct.unpack_from("<III", self.content, start + 16 + 12 * i)) for i in range(count)]

    @property
    def hash_table_address(self) -> int:
        """Where QEMU puts the digests of kernel, initrd and command line. Raises `MeasurementError`."""
        return self._number(_SEV_HASH_TABLE, "a table for the kernel's hashes")

    @property
    def ap_reset_address(self) -> int:
        """Where all processors but the first begin. Raises `MeasurementError`."""
        return self._number(_SEV_ES_RESET, "a reset address for further processors")

    def tdx_sections(self) -> list[TdxSection]:
        """Raises `MeasurementError` for a firmware without TDX."""
        start = self._metadata(_TDX_METADATA, b"TDVF", "TDX")
        count = self._u32(start + 12)
        return [TdxSection(*struct.unpack_from("<IIQQII", self.content, start + 16 + 32 * i)) for i in range(count)]

    def _metadata(self, entry: UUID, signature: bytes, what: str) -> int:
        start = len(self.content) - self._number(entry, f"metadata for {what}")
        if not 0 <= start < len(self.content) or self.content[start : start + 4] != signature:
            raise MeasurementError(f"the firmware's metadata for {what} are damaged")
        return start

    def _number(self, entry: UUID, what: str) -> int:
        if entry not in self._table:
            raise MeasurementError(f"the firmware has not {what}: it is not built for this; see docs/images.md")
        value: int = struct.unpack_from("<I", self._table[entry])[0]
        return value

    def _u32(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self.content, offset)[0]
        return value


def _read_table(content: bytes) -> Mapping[UUID, bytes]:
    """Entries by GUID. They are read from the end: data, length of data and header (2 bytes), GUID."""
    footer = len(content) - _FOOTER_END - _ENTRY_HEADER
    if footer < 0 or content[footer + 2 : footer + _ENTRY_HEADER] != _FOOTER.bytes_le:
        raise MeasurementError("the firmware is no OVMF of the last years: it has no table of GUIDs at its end")
    size: int = struct.unpack_from("<H", content, footer)[0]
    table = content[max(footer + _ENTRY_HEADER - size, 0) : footer]
    entries: dict[UUID, bytes] = {}
    while len(table) >= _ENTRY_HEADER:
        length: int = struct.unpack_from("<H", table, len(table) - _ENTRY_HEADER)[0]
        if not _ENTRY_HEADER <= length <= len(table):
            raise MeasurementError("the firmware's table of GUIDs is damaged")
        entries[UUID(bytes_le=table[-16:])] = table[len(table) - length : -_ENTRY_HEADER]
        table = table[:-length]
    return entries
