"""Programs in the place of QEMU and swtpm: shell scripts that answer what they are asked."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

DEVICES = (
    "virtio-serial-pci",
    "virtserialport",
    "virtio-rng-pci",
    "pvpanic",
    "tpm-crb",
    "vhost-vsock-pci",
    "vhost-user-vsock-pci",
)


def write_program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def write_qemu(
    folder: Path,
    *,
    version: str = "7.2.22 (Debian 1:7.2+dfsg-7)",
    objects: Iterable[str] = ("rng-builtin",),
    accelerators: Iterable[str] = ("tcg", "kvm"),
    devices: Iterable[str] = DEVICES,
) -> Path:
    """A QEMU that lists these."""

    def shown(lines: Iterable[str]) -> str:
        return "".join(f"echo '{line}'\n" for line in lines)

    listed = [f'name "{device}", bus PCI' for device in devices]
    return write_program(
        folder / "qemu-system-x86_64",
        f'case "$1" in\n'
        f"--version) echo 'QEMU emulator version {version}' ;;\n"
        f"-object) echo 'List of user creatable objects:'\n{shown(f'  {name}' for name in objects)} ;;\n"
        f"-accel) echo 'Accelerators supported in QEMU binary:'\n{shown(accelerators)} ;;\n"
        f"-device) echo 'Controller/Bridge/Hub devices:'\n{shown(listed)} ;;\n"
        "esac",
    )


def write_swtpm(folder: Path) -> Path:
    """A swtpm and its set-up."""
    write_program(folder / "swtpm_setup", "exit 0")
    return write_program(folder / "swtpm", "echo 'TPM emulator version 0.7.1, Copyright (c) somebody'")
