"""QEMU's command lines for confidential machines, given to a QEMU that knows them: refused by the host's KVM alone.

`WASMKEEP_QEMU` names such a QEMU (9.1 or later for SNP, 10.1 for TDX, 11 for Nitro) where the installed one is older.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from keep_loader.machine.command_line import arguments
from keep_loader.machine.shape import EncryptedMemory, MachineShape, SerialChannel, VsockChannel
from keep_manager.machines.commands import ask
from keep_protocol.machine import Accelerator
from keep_protocol.states import Backend

PATIENCE = 60.0

REFUSALS = {
    Backend.SNP: "vm-type SEV-SNP not supported by KVM",
    Backend.TDX: "vm-type TDX not supported by KVM",
    Backend.NITRO: "failed to open /dev/nitro_enclaves",
}
"""What a host without the hardware says, once QEMU has read the whole command line and made its objects."""
WORDS = {
    Backend.SNP: ("-object", "sev-snp-guest"),
    Backend.TDX: ("-object", "tdx-guest"),
    Backend.NITRO: ("-accel", "nitro"),
}
"""The option of which a QEMU that knows the kind of machine lists a word."""
NO_KVM = "Could not access KVM kernel module"
WARNING = re.compile(r"^.*: warning: .*\n", re.MULTILINE)


@pytest.fixture(scope="module")
def qemu() -> str:
    found = os.environ.get("WASMKEEP_QEMU") or shutil.which("qemu-system-x86_64")
    if found is None:
        pytest.skip("QEMU is not installed: apt-get install qemu-system-x86, or set WASMKEEP_QEMU")
    return found


@cache
def knows(qemu: str, option: str, name: str) -> bool:
    """Whether QEMU lists the name for an option such as `-object`."""
    return name in ask([qemu, option, "help"], PATIENCE).split()


def needs(qemu: str, backend: Backend) -> None:
    """Skips where this QEMU does not know the backend."""
    if not knows(qemu, *WORDS[backend]):
        pytest.skip(f"{qemu} knows no {backend}: set WASMKEEP_QEMU to one that does")


def shape(backend: Backend, qemu: str, image: Path) -> MachineShape:
    """A machine of this backend, without its sockets."""
    accelerators = {Backend.QEMU: Accelerator.TCG, Backend.NITRO: Accelerator.NITRO}
    return MachineShape(
        backend=backend,
        qemu=qemu,
        accelerator=accelerators.get(backend, Accelerator.KVM),
        memory=256,
        processors=1,
        kernel=str(image / "vmlinuz"),
        initramfs=str(image / "initramfs.cpio.lz4"),
        command_line="console=ttyS0 panic=-1",
        spec_sha256=bytes(range(32)),
        monitor=-1,
        console=-1,
        control=-1,
        channel=VsockChannel(42),
        # Read after KVM was asked for the kind of machine, which is as far as a host without the hardware comes.
        firmware="/dev/null" if backend in (Backend.SNP, Backend.TDX) else None,
        encrypted_memory=EncryptedMemory(51, 1) if backend is Backend.SNP else None,
        quote_socket="/nowhere/qgs.socket" if backend is Backend.TDX else "",
    )


def start(machine: MachineShape, *, serial: bool = False, change: tuple[str, str] = ("", "")) -> tuple[int, str]:
    """Exit status and complaints of QEMU, which stops before the first instruction and is told to quit."""
    with ExitStack() as stack:
        pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(4)]
        (monitor, first), (_, second), (_, third), (_, fourth) = pairs
        machine = replace(machine, monitor=first.fileno(), console=second.fileno(), control=third.fileno())
        if serial:
            machine = replace(machine, channel=SerialChannel(fourth.fileno()))
        monitor.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n')
        return run([*(part.replace(*change) for part in arguments(machine)), "-S"], [pair[1] for pair in pairs])


def run(command: Sequence[str], sockets: Sequence[socket.socket]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        pass_fds=[each.fileno() for each in sockets],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, WARNING.sub("", done.stderr)


def test_a_plain_machine_with_all_its_devices_is_accepted(qemu: str, guest_image: Path) -> None:
    assert start(shape(Backend.QEMU, qemu, guest_image), serial=True) == (0, "")


@pytest.mark.parametrize("serial", [False, True], ids=["vsock", "virtio-serial"])
@pytest.mark.parametrize("backend", [Backend.SNP, Backend.TDX])
def test_a_confidential_machine_is_refused_by_kvm_and_by_nothing_else(
    qemu: str, guest_image: Path, backend: Backend, serial: bool
) -> None:
    needs(qemu, backend)
    status, complaints = start(shape(backend, qemu, guest_image), serial=serial)
    if status != 0:  # 0 on a host that has the hardware
        assert len(complaints.splitlines()) == 1 or NO_KVM in complaints, complaints
        assert REFUSALS[backend] in complaints or NO_KVM in complaints


def test_an_enclave_is_refused_for_want_of_its_device_and_for_nothing_else(qemu: str, guest_image: Path) -> None:
    needs(qemu, Backend.NITRO)
    if Path("/dev/nitro_enclaves").exists():
        pytest.skip("this host could start one")
    status, complaints = start(shape(Backend.NITRO, qemu, guest_image))
    assert status == 1
    assert REFUSALS[Backend.NITRO] in complaints


@pytest.mark.parametrize(
    ("backend", "change", "complaint"),
    [
        (Backend.SNP, ("kernel-hashes=on", "kernel-hashed=on"), "Invalid parameter 'kernel-hashed'"),
        (Backend.SNP, ("host-data=", "host-data=*"), "Base64 data contains invalid"),
        (Backend.SNP, ("guest-support=tee", "guest-support=eet"), "Device 'eet' not found"),
        (Backend.TDX, ('"mrconfigid":', '"mrconfig":'), "Parameter 'mrconfig' is unexpected"),
        (Backend.TDX, ('"path":', '"paths":'), "quote-generation-socket.path' is missing"),
    ],
)
def test_an_option_that_is_wrong_is_refused_before_kvm_is_asked(
    qemu: str, guest_image: Path, backend: Backend, change: tuple[str, str], complaint: str
) -> None:
    needs(qemu, backend)
    status, complaints = start(shape(backend, qemu, guest_image), change=change)
    assert status == 1
    assert REFUSALS[backend] not in complaints
    assert complaint in complaints
