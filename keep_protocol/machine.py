"""How the virtual machine of a keep is shaped: what follows from its spec, and what its host chooses."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from keep_protocol.spec import Limits, MiB
from keep_protocol.states import Backend, GuestChannel

KERNEL_FD: Final = "kernel"
INITRAMFS_FD: Final = "initramfs"
FIRMWARE_FD: Final = "firmware"
TEMPLATE_MEMORY_FD: Final = "template-memory"
TEMPLATE_STATE_FD: Final = "template-state"
TEMPLATE_FDS: Final = frozenset({TEMPLATE_MEMORY_FD, TEMPLATE_STATE_FD})
MACHINE_FDS: Final = frozenset({KERNEL_FD, INITRAMFS_FD, FIRMWARE_FD}) | TEMPLATE_FDS
"""Names of the files of a guest image and of its template in the hand-over: keeps see nothing of the folders that they
are in."""

MIN_GUEST_MEMORY: Final = 192 * MiB
"""Below it kernel and initramfs leave no room for a keep."""


WITH_DISK: Final = frozenset({Backend.QEMU, Backend.QEMU_VTPM})
"""Machines whose state outlives them. A kernel must not mount what an enemy may have written, and whoever has a
machine of trusted hardware counts its host among the enemies."""


CLONED: Final = frozenset({Backend.QEMU})
"""Machines that may start as the clone of a template. All others prove how they were started."""


class Accelerator(StrEnum):
    """What runs a machine's instructions."""

    KVM = "kvm"
    TCG = "tcg"
    """QEMU's translator: works everywhere, several times slower."""
    NITRO = "nitro"


class StartKind(StrEnum):
    """How a machine came to life."""

    CLONE = "clone"
    """From a template's memory."""
    COLD = "cold"
    """From the image."""


class MachineStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the machine of a keep came to life, of those that may be clones."""

    kind: StartKind
    reason: str = ""
    """Why it is no clone."""


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a host has chosen for the machine of one keep. None of it is in the spec, all of it may be in evidence."""

    qemu: str
    """Path of the program."""
    accelerator: Accelerator
    command_line: str
    """The kernel's, as the image says."""
    channel: GuestChannel
    swtpm: str = ""
    """Path of the program, for machines with a TPM."""
    encryption_bit: int = 0
    """SNP: which bit of an address says that a page is encrypted; CPUID 0x8000001f."""
    lost_address_bits: int = 0
    """SNP: by how many bits encryption shortens physical addresses; CPUID 0x8000001f."""
    vsock_device: str = ""
    """Path of vhost-device-vsock, where it makes the vsock device and not the host's kernel."""
    mke2fs: str = ""
    """Path of the program, for machines with a disk."""
    quote_socket: str = ""
    """TDX: the socket of the host's quote generation service."""
    program: str = ""
    """The file of QEMU that fits the template, where one is handed over; see `keep_loader.machine.template`."""
    why_cold: str = ""
    """Why there is no template to be cloned, where a machine could be a clone."""


def guest_memory(limits: Limits) -> int:
    """MiB of memory of a keep's machine: all that the spec grants, for it is its kernel's too."""
    return limits.memory // MiB


def guest_processors(limits: Limits) -> int:
    """Virtual processors of a keep's machine: enough to use what the spec grants."""
    return -(-limits.cpu // 100)


def disk_size(limits: Limits) -> int:
    """Bytes of the disk of a keep's machine: twice what may lie there, for the new is made before the old goes."""
    return 2 * (limits.files + limits.workload) + 16 * limits.output + 256 * MiB
