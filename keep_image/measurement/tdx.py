"""Predicts MRTD, RTMR1 and RTMR2 of an Intel TDX guest. Never compared with hardware: see docs/images.md.

Source: Intel, TDX Module 1.5 Base Architecture, section 12 (MRTD); TDX Virtual Firmware Design Guide, section 11; the
events of RTMR1 and RTMR2 are those of PCR 4 and 9, which were compared with real boots.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from keep_image.measurement.direct_boot import DirectBoot, extended
from keep_image.measurement.firmware import Firmware

_PAGE: Final = 4096
_CHUNK: Final = 256
_RECORD: Final = 128
_MEASURED: Final = 1
"""Attribute of a section: its content is measured too, and not only that it is there."""
_ADDED_LATER: Final = 2
"""Attribute of a section: its pages are added by the guest, so they are not in MRTD."""
_BANK: Final = "sha384"


def predict_mrtd(firmware: bytes) -> bytes:
    """MRTD of a TD with this firmware, 48 bytes, as QEMU builds TDs: page by page. Raises `MeasurementError`."""
    digest = hashlib.sha384()
    for section in Firmware(firmware).tdx_sections():
        for offset in range(0, section.size, _PAGE):
            if not section.attributes & _ADDED_LATER:
                digest.update(_record(b"MEM.PAGE.ADD", section.address + offset))
            if section.attributes & _MEASURED:
                for chunk in range(offset, offset + _PAGE, _CHUNK):
                    digest.update(_record(b"MR.EXTEND", section.address + chunk))
                    digest.update(firmware[section.file_offset + chunk : section.file_offset + chunk + _CHUNK])
    return digest.digest()


def predict_rtmrs(boot: DirectBoot) -> dict[int, list[bytes]]:
    """RTMR1 and RTMR2 by number, with the values that they may have. Raises `MeasurementError`.

    RTMR0 depends on memory, processors and ACPI tables; RTMR3 is the guest's own, and stays zero.
    """
    leaving = boot.exit_events(_BANK)
    return {
        1: [extended([*events, *leaving], _BANK) for events in boot.boot_events(_BANK)],
        2: [extended(events, _BANK) for events in boot.stub_events(_BANK)],
    }


def _record(name: bytes, address: int) -> bytes:
    return (name.ljust(16, b"\0") + struct.pack("<Q", address)).ljust(_RECORD, b"\0")
