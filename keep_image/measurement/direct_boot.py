"""What OVMF and Linux's EFI stub measure when QEMU hands a kernel over directly: events of PCR 4 and 9, RTMR1 and 2.

Source: events of boots with QEMU 7.2, 10.0 and 11.1 and Debian's OVMF 2022.11, 2025.02 and 2026.08.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from keep_image.errors import MeasurementError
from keep_image.measurement.authenticode import authenticode

UNPATCHED_SINCE: Final = (10, 0)
"""QEMU's first version that hands the kernel over as it is in its file."""

_CALLING: Final = b"Calling EFI Application from Boot Option"
_SEPARATOR: Final = bytes(4)
_EXIT_INVOCATION: Final = b"Exit Boot Services Invocation"
_EXIT_SUCCESS: Final = b"Exit Boot Services Returned with Success"

_COMMAND_LINE_ADDRESS: Final = 0x20000
_REAL_MODE_ADDRESS: Final = 0x10000
_ACPI_DATA: Final = 0x28000
"""Bytes below 4 GiB that QEMU's q35 keeps for ACPI tables."""
_LOW_MEMORY_LIMIT: Final = 0xB000_0000
_LOW_MEMORY_OF_LARGE: Final = 0x8000_0000
"""What q35 has below 4 GiB once it has more memory than the limit."""


@dataclass(frozen=True)
class DirectBoot:
    """What the machine is started with."""

    kernel: bytes
    initrd: bytes
    command_line: str
    memory: int
    """Bytes."""
    qemu_version: tuple[int, int] | None = None
    """None: unknown, so both ways of handing the kernel over are predicted."""

    def kernel_digests(self, algorithm: str) -> list[bytes]:
        """Digests of the kernel as firmware may see it, without doubles. Raises `MeasurementError`."""
        kernels = []
        if self.qemu_version is None or self.qemu_version >= UNPATCHED_SINCE:
            kernels.append(self.kernel)
        if self.qemu_version is None or self.qemu_version < UNPATCHED_SINCE:
            kernels.append(patched_kernel(self.kernel, len(self.initrd), self.memory))
        return [authenticode(kernel, algorithm) for kernel in kernels]

    def load_options(self) -> list[bytes]:
        """The command line as the EFI stub measures it; firmware names the initrd behind it, from 2026 on before it."""
        texts = (f"{self.command_line} initrd=initrd\0", f"initrd=initrd {self.command_line}\0")
        return [text.encode("utf-16-le") for text in texts]

    def boot_events(self, algorithm: str) -> list[list[bytes]]:
        """The digests that PCR 4 is extended with, for every way in which the kernel may be handed over."""
        fixed = [_digest(_CALLING, algorithm), _digest(_SEPARATOR, algorithm)]
        return [[kernel, *fixed] for kernel in self.kernel_digests(algorithm)]

    def exit_events(self, algorithm: str) -> list[bytes]:
        """The digests of leaving boot services."""
        return [_digest(_EXIT_INVOCATION, algorithm), _digest(_EXIT_SUCCESS, algorithm)]

    def stub_events(self, algorithm: str) -> list[list[bytes]]:
        """The digests that PCR 9 is extended with, for every order of the load options."""
        initrd = _digest(self.initrd, algorithm)
        return [[_digest(options, algorithm), initrd] for options in self.load_options()]


def extended(events: Iterable[bytes], algorithm: str) -> bytes:
    """What a register that began with zeros holds after these digests."""
    value = bytes(hashlib.new(algorithm).digest_size)
    for event in events:
        value = hashlib.new(algorithm, value + event).digest()
    return value


def patched_kernel(kernel: bytes, initrd_size: int, memory: int) -> bytes:
    """The kernel with the boot loader's fields of its setup header filled in, as QEMU before version 10 hands it over.

    `memory` in bytes. Source: QEMU 7.2, hw/i386/x86.c, x86_load_linux; Linux, Documentation/arch/x86/boot.rst.
    Raises `MeasurementError`.
    """
    if kernel[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", kernel, 0x206)[0] < 0x20C:
        raise MeasurementError("the kernel is no bzImage with boot protocol 2.12 or later")
    patched = bytearray(kernel)
    above_4g = struct.unpack_from("<H", kernel, 0x236)[0] & 2
    highest = 0xFFFF_FFFF if above_4g else struct.unpack_from("<I", kernel, 0x22C)[0]
    low_memory = memory if memory < _LOW_MEMORY_LIMIT else _LOW_MEMORY_OF_LARGE
    highest = min(highest, low_memory - _ACPI_DATA - 1)
    if highest <= initrd_size:
        raise MeasurementError(f"{memory} bytes of memory do not hold an initramfs of {initrd_size}")
    patched[0x210] = 0xB0  # type of loader: QEMU
    patched[0x211] |= 0x80  # the heap may be used
    struct.pack_into("<II", patched, 0x218, (highest - initrd_size) & ~4095, initrd_size)
    struct.pack_into("<H", patched, 0x224, _COMMAND_LINE_ADDRESS - _REAL_MODE_ADDRESS - 0x200)
    struct.pack_into("<I", patched, 0x228, _COMMAND_LINE_ADDRESS)
    return bytes(patched)


def _digest(content: bytes, algorithm: str) -> bytes:
    return hashlib.new(algorithm, content).digest()
