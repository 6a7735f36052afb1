"""Makes a template: boots a machine up to where it has all that every keep needs and nothing of any, and freezes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.children import Child
from keep_loader.machine.command_line import arguments
from keep_loader.machine.console import Console
from keep_loader.machine.control import Control
from keep_loader.machine.launch import connect, path_of
from keep_loader.machine.migration import freeze
from keep_loader.machine.monitor import Monitor
from keep_loader.machine.running import listen
from keep_loader.machine.shape import MachineShape, MemoryFile, SerialChannel
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD, Accelerator
from keep_protocol.spec import MiB
from keep_protocol.states import Backend

_PATIENCE: Final = 180.0
"""Seconds for the whole, as units of machines have to start."""
_END: Final = 5.0
_DISK: Final = 256 * MiB
"""Of the disk in the template. Its driver is loaded by clones, each of which finds its own keep's."""
_LAST_LINES: Final = 6


@dataclass(frozen=True, slots=True)
class TemplateOrder:
    """What a template is made of."""

    qemu: str
    accelerator: Accelerator
    command_line: str
    memory: int
    """MiB."""
    processors: int
    files: Mapping[str, int]
    """Open files of the guest image by name."""


@dataclass(frozen=True, slots=True)
class FrozenMachine:
    """Descriptors of memory with what a template consists of; the caller closes them."""

    memory: int
    state: int


def program_identity(qemu: Path) -> str:
    """Tells whether a program is still the one that the host has looked at, at next to no cost. Raises `OSError`."""
    status = qemu.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


async def make_template(order: TemplateOrder) -> FrozenMachine:
    """Boot and freeze. Raises `MachineError`."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:

        def memory_file(name: str) -> int:
            descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            ours.callback(os.close, descriptor)
            return descriptor

        memory, state = memory_file("template-memory"), memory_file("template-state")
        os.ftruncate(memory, order.memory * MiB)
        with contextlib.ExitStack() as meanwhile:
            disk = os.memfd_create("template-disk", os.MFD_CLOEXEC)
            meanwhile.callback(os.close, disk)
            os.ftruncate(disk, _DISK)
            connections = connect(meanwhile, theirs)
            shape = MachineShape(
                backend=Backend.QEMU,
                qemu=order.qemu,
                accelerator=order.accelerator,
                memory=order.memory,
                processors=order.processors,
                kernel=path_of(order.files[KERNEL_FD]),
                initramfs=path_of(order.files[INITRAMFS_FD]),
                command_line=order.command_line,
                spec_sha256=b"",
                monitor=connections.monitor_end,
                console=connections.console_end,
                control=connections.control_end,
                channel=SerialChannel(connections.data_end),
                disk=path_of(disk),
                memory_file=MemoryFile(path_of(memory), shared=True),
            )
            qemu = Child("QEMU", arguments(shape), [*connections.ends, memory, disk, *order.files.values()])
            theirs.close()
            monitor, console = Monitor(connections.monitor), Console()
            control = Control(connections.control, publish=lambda _: None, heartbeat=lambda: None)
            tasks = [asyncio.create_task(monitor.run()), asyncio.create_task(listen(connections.console, console))]
            try:
                async with asyncio.timeout(_PATIENCE):
                    await control.prepare()
                    await freeze(monitor, state)
                    await monitor.quit()
                    await qemu.ended()
            except (MachineError, TimeoutError) as error:
                await qemu.end(_END)
                said = [*console.last_lines(_LAST_LINES), *qemu.said.last_lines(_LAST_LINES)]
                why = str(error) or f"the machine was not ready within {_PATIENCE:.0f} s"
                raise MachineError("\n  ".join([f"no template: {why}", *said])) from None
            finally:
                await qemu.end(_END)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        ours.pop_all()
    return FrozenMachine(memory, state)
