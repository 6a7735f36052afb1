"""The Authenticode digest of a PE file, by which UEFI firmware measures a kernel.

Source: Microsoft, Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash".
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from keep_image.errors import MeasurementError

_PE32_PLUS: Final = 0x20B
_SECTION_HEADER: Final = 40


def authenticode(content: bytes, algorithm: str = "sha256") -> bytes:
    """The digest over all but checksum, certificate table and its directory entry. Raises `MeasurementError`."""
    try:
        return _authenticode(content, algorithm)
    except struct.error:
        raise MeasurementError("the kernel is no EFI program: its PE headers end too early") from None


def _authenticode(content: bytes, algorithm: str) -> bytes:
    start = _u32(content, 0x3C)
    if content[start : start + 4] != b"PE\0\0":
        raise MeasurementError("the kernel is no EFI program: CONFIG_EFI_STUB is needed for measured boot")
    sections, optional_size = _u16(content, start + 6), _u16(content, start + 20)
    optional = start + 24
    directories = optional + (112 if _u16(content, optional) == _PE32_PLUS else 96)
    checksum, certificates = optional + 64, directories + 4 * 8
    headers_size, certificates_size = _u32(content, optional + 60), _u32(content, certificates + 4)
    digest = hashlib.new(algorithm)
    digest.update(content[:checksum])
    digest.update(content[checksum + 4 : certificates])
    digest.update(content[certificates + 8 : headers_size])
    hashed = headers_size
    table = optional + optional_size
    places = [struct.unpack_from("<II", content, table + _SECTION_HEADER * i + 16) for i in range(sections)]
    for size, offset in sorted(places, key=lambda place: place[1]):
        digest.update(content[offset : offset + size])
        hashed += size
    # What lies behind the last section, but for the certificates at the very end.
    digest.update(content[hashed : len(content) - certificates_size])
    return digest.digest()


def _u16(content: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<H", content, offset)[0]
    return value


def _u32(content: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<I", content, offset)[0]
    return value
