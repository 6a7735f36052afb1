"""Starts the programs of a machine, each with our end of its sockets: nothing of a machine has a name on the host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine import software_tpm, vsock_device
from keep_loader.machine.children import Child
from keep_loader.machine.command_line import arguments
from keep_loader.machine.disk import open_disk
from keep_loader.machine.shape import (
    DataChannel,
    EncryptedMemory,
    MachineShape,
    MemoryFile,
    SerialChannel,
    VhostUserVsockChannel,
    VsockChannel,
)
from keep_loader.machine.vsock_device import VsockDevice
from keep_protocol.guest_control import GuestChannel
from keep_protocol.machine import (
    FIRMWARE_FD,
    INITRAMFS_FD,
    KERNEL_FD,
    TEMPLATE_FDS,
    TEMPLATE_MEMORY_FD,
    TEMPLATE_STATE_FD,
    WITH_DISK,
    Machine,
    disk_size,
    guest_memory,
    guest_processors,
)
from keep_protocol.spec import KeepSpec
from keep_protocol.states import Backend

_LAST_CONTEXT: Final = 2**31 - 1
"""vsock contexts 0 to 2 are taken, and all from here on have the sign bit set, which some tools dislike."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a machine is started from."""

    spec: KeepSpec
    spec_sha256: bytes
    machine: Machine
    files: Mapping[str, int]
    """Open files of the guest image by name."""
    state: Path
    """A folder that outlives the machine."""

    @property
    def is_clone(self) -> bool:
        """Whether the machine starts from a template."""
        return files_of_template(self.files) is not None

    def from_image(self) -> Order:
        """The same without its template."""
        files = {name: descriptor for name, descriptor in self.files.items() if name not in TEMPLATE_FDS}
        return replace(self, files=files)


@dataclass(frozen=True, slots=True)
class Launched:
    """The programs that run, and our ends of QEMU's sockets."""

    qemu: Child
    tpm: Child | None
    disk: int | None
    """Keeps the lock on the disk."""
    monitor: socket.socket
    console: socket.socket
    control: socket.socket
    channel: VsockChannel | VsockDevice | socket.socket
    """The guest's vsock address or device, or our end of its data port."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Our ends of QEMU's sockets, and the far ones, which QEMU inherits."""

    monitor: socket.socket
    console: socket.socket
    control: socket.socket
    data: socket.socket
    monitor_end: int
    console_end: int
    control_end: int
    data_end: int

    @property
    def ends(self) -> list[int]:
        return [self.monitor_end, self.console_end, self.control_end, self.data_end]


def connect(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> Connections:
    """New sockets, entered into the two stacks. Raises `OSError`."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    monitor, console, control, data = (ours.enter_context(near) for near, _ in pairs)
    return Connections(monitor, console, control, data, *(theirs.enter_context(far).fileno() for _, far in pairs))


async def launch(order: Order) -> Launched:
    """Start a machine; one that is a clone waits for its template's state. Raises `MachineError`."""
    # What is entered here is QEMU's alone once it runs; what is `ours` is closed only if it does not come to that.
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        connections = connect(ours, theirs)
        tpm, tpm_end = await _start_tpm(order, theirs)
        disk = await _open_disk(order, ours)
        device, device_end = await _start_vsock_device(order, theirs)
        channel = _channel(order, connections.data_end) if device_end is None else VhostUserVsockChannel(device_end)
        inherited = [*connections.ends, *order.files.values()]
        inherited += [descriptor for descriptor in (tpm_end, disk, device_end) if descriptor is not None]
        try:
            shape = _shape(order, connections, channel, tpm_end, disk)
            qemu = Child("QEMU", arguments(shape), inherited)
        except MachineError:
            if device is not None:
                # The TPM ends with QEMU's end of its socket; this would wait for another QEMU.
                await device.child.end(0)
                device.close()
            raise
        ours.pop_all()
    reached: VsockChannel | VsockDevice | socket.socket = device or connections.data
    if isinstance(channel, VsockChannel):
        reached = channel
    if reached is not connections.data:
        connections.data.close()
    return Launched(qemu, tpm, disk, connections.monitor, connections.console, connections.control, reached)


def files_of_template(files: Mapping[str, int]) -> tuple[int, int] | None:
    """The descriptors of a template's memory and state, if both were handed over."""
    if not files.keys() >= TEMPLATE_FDS:
        return None
    return files[TEMPLATE_MEMORY_FD], files[TEMPLATE_STATE_FD]


async def _start_tpm(order: Order, theirs: contextlib.ExitStack) -> tuple[Child | None, int | None]:
    if order.spec.backend is not Backend.QEMU_VTPM:
        return None, None
    if not order.machine.swtpm:
        raise MachineError("a machine with a TPM needs swtpm, and the host named none")
    state = order.state / "tpm"
    await asyncio.to_thread(software_tpm.manufacture, order.machine.swtpm, state)
    tpm, channel = software_tpm.start(order.machine.swtpm, state)
    return tpm, theirs.enter_context(channel).fileno()


async def _start_vsock_device(
    order: Order, theirs: contextlib.ExitStack
) -> tuple[VsockDevice, int] | tuple[None, None]:
    if channel_kind(order.machine, order.spec) is not GuestChannel.VSOCK or not order.machine.vsock_device:
        return None, None
    device, connection = await vsock_device.start(order.machine.vsock_device, order.state)
    return device, theirs.enter_context(connection).fileno()


async def _open_disk(order: Order, ours: contextlib.ExitStack) -> int | None:
    if order.spec.backend not in WITH_DISK:
        return None
    if not order.machine.mke2fs:
        raise MachineError("a machine with a disk needs mke2fs, and the host named none: restart the keep")
    disk = await asyncio.to_thread(open_disk, order.machine.mke2fs, order.state, disk_size(order.spec.limits))
    ours.callback(os.close, disk)
    return disk


def channel_kind(machine: Machine, spec: KeepSpec) -> GuestChannel:
    """How bytes get into the machine. A network needs streams that the guest opens, which the serial port alone has."""
    return GuestChannel.SERIAL if spec.network.names_anything else machine.channel


def _channel(order: Order, descriptor: int) -> DataChannel:
    if channel_kind(order.machine, order.spec) is GuestChannel.VSOCK:
        # Drawn at random: contexts are the whole host's, and nobody gives them out.
        return VsockChannel(3 + secrets.randbelow(_LAST_CONTEXT - 2))
    return SerialChannel(descriptor)


def _shape(
    order: Order, connections: Connections, channel: DataChannel, tpm: int | None, disk: int | None
) -> MachineShape:
    machine, files = order.machine, order.files
    if missing := {KERNEL_FD, INITRAMFS_FD} - files.keys():
        raise MachineError(f"the hand-over lacks the guest image's {min(missing)}")
    encrypted = machine.encryption_bit, machine.lost_address_bits
    template = files_of_template(files)
    return MachineShape(
        backend=order.spec.backend,
        qemu=machine.qemu,
        accelerator=machine.accelerator,
        memory=guest_memory(order.spec.limits),
        processors=guest_processors(order.spec.limits),
        kernel=path_of(files[KERNEL_FD]),
        initramfs=path_of(files[INITRAMFS_FD]),
        command_line=machine.command_line,
        spec_sha256=order.spec_sha256,
        monitor=connections.monitor_end,
        console=connections.console_end,
        control=connections.control_end,
        channel=channel,
        disk=None if disk is None else path_of(disk),
        firmware=path_of(files[FIRMWARE_FD]) if FIRMWARE_FD in files else None,
        tpm=tpm,
        encrypted_memory=EncryptedMemory(*encrypted) if all(encrypted) else None,
        memory_file=None if template is None else MemoryFile(path_of(template[0]), shared=False),
        quote_socket=machine.quote_socket,
    )


def path_of(descriptor: int) -> str:
    """A name by which QEMU opens what it inherits."""
    return f"/proc/self/fd/{descriptor}"
