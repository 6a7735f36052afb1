"""What a machine costs without a keep in it: its kernel alone, and its channel alone."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keep_client import new_spec
from keep_image.manifest import KERNEL, load_manifest
from keep_image.newc import file, write_archive
from keep_loader.machine.command_line import arguments
from keep_loader.machine.shape import MachineShape, SerialChannel
from keep_manager.machines.survey import probe_processor
from keep_protocol.channel import MAX_PAYLOAD, Aborted, FrameType, Multiplexer, Role
from keep_protocol.machine import Accelerator
from keep_protocol.states import AtRest, Backend
from tests.guest_machine import await_ready, configuration, running_machine
from tests.unit.app_loader.pki import self_signed

_GREETING = b"userspace\n"
_PATIENCE = 120.0
_HEADER = struct.Struct("!BxHI")


def first_userspace_output(image: Path, memory: int) -> float:
    """Seconds from the start of QEMU to what a first process of a few instructions writes to the console."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "initramfs").write_bytes(write_archive([file("init", _program(), 0o755)]))
        pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(4)]
        console = pairs[0][0]
        console.settimeout(_PATIENCE)
        descriptors = [pair[1].fileno() for pair in pairs]
        shape = MachineShape(
            backend=Backend.QEMU,
            qemu=shutil.which("qemu-system-x86_64") or "qemu-system-x86_64",
            accelerator=Accelerator.KVM if probe_processor().kvm.usable else Accelerator.TCG,
            memory=memory,
            processors=1,
            kernel=str(image / KERNEL),
            initramfs=str(folder / "initramfs"),
            command_line=load_manifest(image).command_line,
            spec_sha256=bytes(32),
            console=descriptors[0],
            monitor=descriptors[1],
            control=descriptors[2],
            channel=SerialChannel(descriptors[3]),
        )
        started = time.perf_counter()
        process = subprocess.Popen(arguments(shape), pass_fds=descriptors, stdin=subprocess.DEVNULL)
        try:
            written = b""
            # The console ends lines with carriage returns.
            while _GREETING.strip() not in written:
                written += console.recv(4096)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


@contextmanager
def raw_channel(image: Path, memory: int, size: int) -> Iterator[Callable[[], float]]:
    """Measures in how many seconds a guest takes `size` bytes from its data port and drops them: frames, no more."""
    # To a stream that the guest has refused; its answer to a later one says that it has read them all.
    block = _HEADER.pack(FrameType.DATA, MAX_PAYLOAD, 1) + os.urandom(MAX_PAYLOAD)
    spec = new_spec(principals=[self_signed().pinned()], at_rest=AtRest.PLAIN)
    with running_machine(image, memory=memory) as machine, machine.data_port() as port:
        machine.tell(configuration(spec))
        await_ready(machine)
        port.settimeout(_PATIENCE)
        multiplexer = Multiplexer(Role.HOST)
        _refused(port, multiplexer)

        def transfer() -> float:
            started = time.perf_counter()
            for _ in range(size // MAX_PAYLOAD):
                port.sendall(block)
            _refused(port, multiplexer)
            return time.perf_counter() - started

        yield transfer


def _refused(port: socket.socket, multiplexer: Multiplexer) -> None:
    """Ask for a service that there is not, and wait until the guest says so."""
    multiplexer.open("nowhere")
    while output := multiplexer.output():
        port.sendall(output)
        multiplexer.written(len(output))
    while not any(isinstance(event, Aborted) for event in multiplexer.receive(port.recv(65536))):
        pass


def _program() -> bytes:
    """An ELF executable for x86-64: write(1, greeting), then pause() for ever."""
    write = bytes.fromhex("b801000000 bf01000000 488d3510000000 ba") + struct.pack("<I", len(_GREETING)) + b"\x0f\x05"
    pause = bytes.fromhex("b822000000 0f05 ebf7")
    code = write + pause + _GREETING
    base, start = 0x400000, 64 + 56
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = start + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return identification + header + segment + code
