"""What goes wrong with real machines: kernels that panic, and hosts without memory."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from keep_client import Credentials, KeepClient, ProblemError
from keep_client.pins import KeepPin
from keep_client.specs import new_spec
from keep_loader.errors import MachineError
from keep_protocol.errors import ErrorCode
from keep_protocol.guest_control import GUEST_PROTOCOL_VERSION, GuestConfiguration
from keep_protocol.handover import Configuration
from keep_protocol.spec import DEFAULT_LIMITS, MiB, Principal, canonical
from keep_protocol.states import Backend, FileArea, GuestChannel, KeepRole
from tests.guest_machine import configuration
from tests.system.conftest import bootable, small_file_system
from tests.system.deployment import Deployment, one_supervisor
from tests.system.loaded_machine import BOOT, LoadedMachine, launched, loaded_machine
from tests.unit.app_loader.pki import self_signed


def test_a_guest_whose_kernel_panics_ends_with_its_last_words(guest_image: Path, tmp_path: Path) -> None:
    image = bootable(guest_image)
    # Too little for its initramfs: the kernel finds no init. The manager would refuse such a spec.
    spec = new_spec(
        principals=[Principal(roles=(KeepRole.OWNER,), certificate="AAAA")],
        backend=Backend.QEMU,
        limits=msgspec.structs.replace(DEFAULT_LIMITS, memory=96 * MiB),
    )
    handed_over = Configuration(
        id="0123456789abcdef", deployment="1" * 8, spec=canonical(spec).decode(), domain="keep.test", names=()
    )
    told = GuestConfiguration(GUEST_PROTOCOL_VERSION, handed_over, "2" * 32, GuestChannel.SERIAL, disk=True)

    async def live() -> tuple[str, list[str]]:
        running = await launched(image, spec, tmp_path, [])
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


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of the host's that can be filled."""
    with small_file_system("64m") as folder:
        yield folder


def fill_disk(file: Path) -> None:
    """Make the file so large that nothing else finds room."""
    with suppress(OSError), file.open("wb", buffering=0) as others:
        while True:
            others.write(bytes(64 * 1024))


def test_a_machine_on_a_full_disk_says_so_and_goes_on_and_has_its_files_when_there_is_room_again(
    guest_image: Path, small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = self_signed()
    file = owner.write(tmp_path)
    limits = msgspec.structs.replace(DEFAULT_LIMITS, memory=320 * MiB)
    spec = new_spec(principals=[owner.pinned()], backend=Backend.QEMU, limits=limits)
    told = configuration(spec, disk=True, sealing_keys=(b64encode(os.urandom(32)).decode(),))
    image, stored, ballast = bootable(guest_image), os.urandom(100_000), small_disk / "ballast"

    def connected(machine: LoadedMachine) -> KeepClient:
        pin = KeepPin.from_certificate(machine.certificate)
        return KeepClient(machine.endpoint, pin, credentials=Credentials(file, file))

    with loaded_machine(image, spec, told, small_disk) as machine, connected(machine) as client:
        client.put_file(FileArea.DATA, "kept", stored)
        fill_disk(ballast)
        with pytest.raises(ProblemError) as refused:
            client.put_file(FileArea.DATA, "more", bytes(MiB))
        assert refused.value.code == ErrorCode.DISK_FAILED
        assert b"".join(client.read_file(FileArea.DATA, "kept")) == stored
    assert "the host's disk is full: the keep can store nothing until it is restarted" in caplog.messages
    ballast.unlink()
    with loaded_machine(image, spec, told, small_disk) as machine, connected(machine) as client:
        assert b"".join(client.read_file(FileArea.DATA, "kept")) == stored
        client.put_file(FileArea.DATA, "more", stored)
