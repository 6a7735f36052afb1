"""What QEMU is called with: everything that its command line depends on, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from keep_protocol.machine import Accelerator
from keep_protocol.states import Backend


@dataclass(frozen=True, slots=True)
class SerialChannel:
    """One port of virtio-serial for all connections; `descriptor` is our end's peer."""

    descriptor: int


@dataclass(frozen=True, slots=True)
class VsockChannel:
    """vhost-vsock of the host's kernel; `context` is the guest's address, which no other machine may have."""

    context: int


@dataclass(frozen=True, slots=True)
class VhostUserVsockChannel:
    """A vsock device in a program beside QEMU, vhost-device-vsock; `descriptor` is connected to it."""

    descriptor: int


DataChannel: TypeAlias = SerialChannel | VsockChannel | VhostUserVsockChannel


@dataclass(frozen=True, slots=True)
class EncryptedMemory:
    """How the host's processor encrypts memory for SNP; CPUID 0x8000001f, EBX."""

    encryption_bit: int
    lost_address_bits: int


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """The guest's memory in a file: a template's is written into it, a clone has a copy of what it writes itself."""

    path: str
    shared: bool
    """Whether this is the template, and not a clone."""


@dataclass(frozen=True, slots=True)
class MachineShape:
    """One machine. Descriptors are those that QEMU inherits; paths may be `/proc/self/fd/N` of them."""

    backend: Backend
    qemu: str
    accelerator: Accelerator
    memory: int
    """MiB."""
    processors: int
    kernel: str
    initramfs: str
    command_line: str
    spec_sha256: bytes
    """Goes where hardware signs it and the guest cannot change it."""
    monitor: int
    console: int
    control: int
    channel: DataChannel
    disk: str | None = None
    """A raw image, which the guest may write."""
    firmware: str | None = None
    tpm: int | None = None
    """Control channel of a TPM in software."""
    encrypted_memory: EncryptedMemory | None = None
    memory_file: MemoryFile | None = None
    """Of a template or a clone."""
    quote_socket: str = ""
    """Socket of the host's quote generation service, for TDX."""
