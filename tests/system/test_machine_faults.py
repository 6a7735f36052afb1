"""What goes wrong with real machines: kernels that panic, and hosts without memory."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from keep_client.specs import new_spec
from keep_image.manifest import INITRAMFS, KERNEL, load_manifest
from keep_loader.errors import MachineError
from keep_loader.machine.launch import Order, launch
from keep_loader.machine.running import RunningMachine
from keep_protocol.guest_control import GUEST_PROTOCOL_VERSION, GuestConfiguration
from keep_protocol.handover import Configuration
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD, Accelerator, Machine
from keep_protocol.spec import DEFAULT_LIMITS, MiB, Principal, canonical
from keep_protocol.states import Backend, GuestChannel, KeepRole
from tests.system.conftest import bootable
from tests.system.deployment import Deployment
from tests.system.test_machines import BOOT, one_supervisor


def test_a_guest_whose_kernel_panics_ends_with_its_last_words(guest_image: Path, tmp_path: Path) -> None:
    image = bootable(guest_image)
    # Too little for its initramfs: the kernel finds no init. The manager would refuse such a spec.
    spec = new_spec(
        principals=[Principal(roles=(KeepRole.OWNER,), certificate="AAAA")],
        backend=Backend.QEMU,
        limits=msgspec.structs.replace(DEFAULT_LIMITS, memory=96 * MiB),
    )
    machine = Machine(
        qemu=shutil.which("qemu-system-x86_64") or "",
        accelerator=Accelerator.TCG,
        command_line=load_manifest(image).command_line,
        channel=GuestChannel.SERIAL,
        mke2fs="/usr/sbin/mke2fs",
    )
    configuration = Configuration(
        id="0123456789abcdef", deployment="1" * 8, spec=canonical(spec).decode(), domain="keep.test", names=()
    )
    told = GuestConfiguration(GUEST_PROTOCOL_VERSION, configuration, "2" * 32, GuestChannel.SERIAL, disk=True)

    async def live() -> tuple[str, list[str]]:
        files = {
            name: os.open(image / path, os.O_RDONLY) for name, path in ((KERNEL_FD, KERNEL), (INITRAMFS_FD, INITRAMFS))
        }
        try:
            launched = await launch(Order(spec, bytes(32), machine, files, tmp_path))
        finally:
            for descriptor in files.values():
                os.close(descriptor)
        running = RunningMachine(launched, publish=lambda _: None, heartbeat=lambda: None)
        try:
            async with asyncio.timeout(BOOT):
                with pytest.raises(MachineError) as ended:
                    await running.serve(told, lambda: None)
        finally:
            await running.close()
        return str(ended.value), running.last_words()

    reason, words = asyncio.run(live())
    assert reason.startswith("guest-panic: ")
    assert any("Kernel panic" in line for line in words), words


@one_supervisor
def test_a_machine_that_the_host_has_no_memory_for_says_so(fresh_machine_deployment: Deployment) -> None:
    deployment = fresh_machine_deployment
    deployment.stop_manager()
    settings = deployment.home / "config" / "wasmkeep.toml"
    # QEMU needs much more than this beside the guest's memory.
    settings.write_text(settings.read_text().replace("[machines]", '[machines]\noverhead = "8M"', 1))
    assert "overhead" in settings.read_text()
    deployment.serve()
    refused = deployment.keepctl("create", "--backend", "qemu", "--memory", "192M", "--name", "big", check=False)
    assert refused.returncode != 0
    told = refused.stderr + deployment.log()
    assert "memory: the kernel killed QEMU at the memory limit of the keep's unit" in told
