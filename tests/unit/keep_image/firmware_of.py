"""Makes firmware files with the tables that real ones have, and nothing else in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from uuid import UUID

SIZE = 64 * 1024
HASH_TABLE = 0x810C00
AP_RESET = 0x80B004

SEV_SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x811000, 0xF000, 1),
    (0x810000, 0x1000, 0x10),
)
"""As in edk2's AmdSev build: address, size, type."""

TDX_SECTIONS = (
    (0, 0x1000, 0xFFFFF000, 0x1000, 0, 1),
    (0x1000, 0x1000, 0xFFFFE000, 0x1000, 1, 0),
    (0, 0, 0x810000, 0x2000, 3, 0),
    (0, 0, 0x820000, 0x1000, 4, 2),
)


def firmware(
    *,
    sev: Iterable[tuple[int, int, int]] | None = SEV_SECTIONS,
    tdx: Iterable[tuple[int, int, int, int, int, int]] | None = TDX_SECTIONS,
    hash_table: bool = True,
) -> bytes:
    """A firmware of 64 KiB with metadata for SEV and TDX where they are wanted."""
    content = bytearray(bytes(range(256)) * (SIZE // 256))
    entries: list[tuple[str, bytes]] = []
    position = 0x8000
    if sev is not None:
        sections = [struct.pack("<III", *section) for section in sev]
        metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(sections), 1, len(sections)) + b"".join(sections)
        content[position : position + len(metadata)] = metadata
        entries.append(("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", SIZE - position)))
        entries.append(("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", AP_RESET)))
        position += 0x1000
    if hash_table:
        entries.append(("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", HASH_TABLE, 0x400)))
    if tdx is not None:
        parts = [struct.pack("<IIQQII", *section) for section in tdx]
        metadata = b"TDVF" + struct.pack("<III", 16 + 32 * len(parts), 1, len(parts)) + b"".join(parts)
        content[position : position + len(metadata)] = metadata
        entries.append(("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", SIZE - position)))
    table = b"".join(_entry(name, data) for name, data in entries)
    footer = struct.pack("<H", len(table) + 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    end = SIZE - 32
    content[end - len(table) - len(footer) : end] = table + footer
    return bytes(content)


def _entry(name: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + UUID(name).bytes_le
