"""A real machine reached by vhost-device-vsock, where it is installed: connections, much in both directions, its end.

`WASMKEEP_VHOST_DEVICE_VSOCK` names the program where it lies elsewhere; Debian has it from the release after 13 on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from keep_client import Credentials, KeepClient, new_spec
from keep_client.pins import KeepPin
from keep_image.manifest import INITRAMFS, KERNEL, load_manifest
from keep_loader.errors import MachineError
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.launch import Order, launch
from keep_loader.machine.running import RunningMachine
from keep_protocol.guest_control import GUEST_PROTOCOL_VERSION, GuestConfiguration
from keep_protocol.handover import Configuration
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD, Accelerator, Machine
from keep_protocol.spec import DEFAULT_LIMITS, MiB, canonical
from keep_protocol.states import AtRest, Backend, FileArea, GuestChannel
from tests.system.conftest import bootable
from tests.system.test_machines import BOOT
from tests.unit.app_loader.pki import Credential, self_signed

AT_ONCE = 12
LARGE = 3 * MiB

Act = Callable[[RunningMachine, Callable[[], KeepClient]], Awaitable[None]]


@pytest.fixture
def program() -> str:
    found = os.environ.get("WASMKEEP_VHOST_DEVICE_VSOCK") or shutil.which("vhost-device-vsock")
    if found is None:
        pytest.skip("vhost-device-vsock is not installed, and WASMKEEP_VHOST_DEVICE_VSOCK names none")
    return found


class Scene:
    """One machine, and what is done with it while it serves."""

    def __init__(self, image: Path, folder: Path, program: str) -> None:
        self._image = bootable(image)
        self._folder = folder
        self._owner: Credential = self_signed()
        self._spec = new_spec(
            principals=[self._owner.pinned()],
            backend=Backend.QEMU,
            at_rest=AtRest.PLAIN,
            limits=msgspec.structs.replace(DEFAULT_LIMITS, memory=320 * MiB),
        )
        self._machine = Machine(
            qemu=shutil.which("qemu-system-x86_64") or "",
            accelerator=Accelerator.TCG,
            command_line=load_manifest(self._image).command_line,
            channel=GuestChannel.VSOCK,
            vsock_device=program,
            mke2fs="/usr/sbin/mke2fs",
        )

    async def play(self, act: Act) -> None:
        """Raises what serving raises."""
        paths = {KERNEL_FD: self._image / KERNEL, INITRAMFS_FD: self._image / INITRAMFS}
        files = {name: os.open(path, os.O_RDONLY) for name, path in paths.items()}
        certificates: list[str] = []
        try:
            launched = await launch(Order(self._spec, bytes(32), self._machine, files, self._folder))
        finally:
            for descriptor in files.values():
                os.close(descriptor)
        machine = RunningMachine(launched, publish=certificates.append, heartbeat=lambda: None)
        ready = asyncio.Event()
        path = self._owner.write(self._folder)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            def connect() -> KeepClient:
                endpoint = "{}:{}".format(*listener.getsockname())
                pin = KeepPin.from_certificate(certificates[0])
                return KeepClient(endpoint, pin, credentials=Credentials(path, path))

            forwarder = Forwarder(listener, machine.dial)
            forwarding = asyncio.create_task(forwarder.run())
            serving = asyncio.create_task(machine.serve(self._configuration(), ready.set))
            try:
                async with asyncio.timeout(BOOT):
                    waiting = asyncio.create_task(ready.wait())
                    await asyncio.wait([waiting, serving], return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if not serving.done():
                        await act(machine, connect)
                    await serving
            finally:
                forwarding.cancel()
                await asyncio.gather(forwarding, return_exceptions=True)
                await forwarder.close()
                await machine.close()
                await asyncio.gather(serving, return_exceptions=True)

    def _configuration(self) -> GuestConfiguration:
        configuration = Configuration(
            id="0123456789abcdef", deployment="1" * 8, spec=canonical(self._spec).decode(), domain="test", names=()
        )
        return GuestConfiguration(GUEST_PROTOCOL_VERSION, configuration, "2" * 32, GuestChannel.VSOCK, disk=True)


def test_much_goes_both_ways_on_many_connections_and_a_dead_device_is_named(
    guest_image: Path, tmp_path: Path, program: str
) -> None:
    contents = [os.urandom(LARGE if not number else 1 + number * 1000) for number in range(AT_ONCE)]
    came_back: list[bytes] = []

    async def act(machine: RunningMachine, connect: Callable[[], KeepClient]) -> None:
        def there_and_back(numbered: tuple[int, bytes]) -> bytes:
            number, content = numbered
            with connect() as client:
                client.put_file(FileArea.INPUT, f"file-{number}", content)
                return b"".join(client.read_file(FileArea.INPUT, f"file-{number}"))

        def all_at_once() -> list[bytes]:
            with ThreadPoolExecutor(AT_ONCE) as threads:
                return list(threads.map(there_and_back, enumerate(contents)))

        came_back.extend(await asyncio.to_thread(all_at_once))
        _, device = machine.programs()
        os.kill(device.pid, signal.SIGKILL)

    with pytest.raises(MachineError) as ended:
        asyncio.run(Scene(guest_image, tmp_path, program).play(act))
    assert came_back == contents
    assert str(ended.value) == "channel-died: vhost-device-vsock ended with killed by SIGKILL"
