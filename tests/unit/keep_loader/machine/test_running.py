"""A whole machine, with a program in QEMU's place: how it is served, how it ends, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keep_client.specs import new_spec
from keep_loader.errors import MachineError
from keep_loader.machine import running, vsock_device
from keep_loader.machine.disk import DISK_FILE
from keep_loader.machine.launch import Order, launch
from keep_loader.machine.running import RunningMachine
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import GUEST_PROTOCOL_VERSION, GuestConfiguration
from keep_protocol.handover import Configuration
from keep_protocol.machine import FIRMWARE_FD, INITRAMFS_FD, KERNEL_FD, Accelerator, Machine
from keep_protocol.spec import Principal, canonical
from keep_protocol.states import Backend, GuestChannel, KeepRole
from tests.unit.keep_loader.machine.fake_qemu import CERTIFICATE, qemu_program
from tests.unit.keep_loader.machine.fake_vsock_device import vsock_program

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    # The program in QEMU's place is a module of the tests, found from here.
    monkeypatch.chdir(ROOT)


class Scene:
    """One machine and what came of it."""

    def __init__(
        self,
        folder: Path,
        behaviour: str,
        *,
        qemu: str | None = None,
        backend: Backend = Backend.QEMU,
        vsock_device: str = "",
    ) -> None:
        self.folder = folder
        self.spec = new_spec(
            principals=[Principal(roles=(KeepRole.OWNER,), certificate="AAAA")],
            backend=backend,
            evidence=EvidenceKind.TPM if backend is Backend.QEMU_VTPM else None,
        )
        self.machine = Machine(
            qemu=qemu or qemu_program(folder),
            accelerator=Accelerator.TCG,
            command_line=behaviour,
            channel=GuestChannel.VSOCK if vsock_device else GuestChannel.SERIAL,
            vsock_device=vsock_device,
            mke2fs="/usr/sbin/mke2fs",
            swtpm=shutil.which("swtpm") or "",
        )
        self.published: list[str] = []
        self.beats = 0
        self.ready = asyncio.Event()
        self.words: list[str] = []

    def beat(self) -> None:
        self.beats += 1

    async def play(self, act: Callable[[RunningMachine], Awaitable[None]]) -> None:
        """Start, do something once the guest is ready, and follow it to its end. Raises what serving raises."""
        image = os.open("/dev/null", os.O_RDONLY)
        try:
            order = Order(
                spec=self.spec,
                spec_sha256=bytes(32),
                machine=self.machine,
                files={KERNEL_FD: image, INITRAMFS_FD: image, FIRMWARE_FD: image},
                state=self.folder,
            )
            machine = RunningMachine(await launch(order), publish=self.published.append, heartbeat=self.beat)
        finally:
            os.close(image)
        acting = asyncio.create_task(self._act(machine, act))
        try:
            await machine.serve(self._configuration(), self.ready.set)
        finally:
            self.words = machine.last_words()
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
            await machine.close()

    async def _act(self, machine: RunningMachine, act: Callable[[RunningMachine], Awaitable[None]]) -> None:
        await self.ready.wait()
        await act(machine)

    def _configuration(self) -> GuestConfiguration:
        configuration = Configuration(
            id="0123456789abcdef",
            deployment="01234567",
            spec=canonical(self.spec).decode(),
            domain="test",
            names=(),
        )
        return GuestConfiguration(GUEST_PROTOCOL_VERSION, configuration, "ab" * 16, self.machine.channel)


async def stop(machine: RunningMachine) -> None:
    await machine.stop()


async def nothing(machine: RunningMachine) -> None:
    pass


def failure(scene: Scene, act: Callable[[RunningMachine], Awaitable[None]] = nothing) -> str:
    """Why a machine ended that nobody told to."""
    with pytest.raises(MachineError) as caught:
        asyncio.run(scene.play(act))
    return str(caught.value)


def test_a_guest_that_is_ready_is_published_and_stops_when_it_is_told_to(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "")
    asyncio.run(scene.play(stop))
    assert scene.published == [CERTIFICATE]
    assert "console: serving 0123456789abcdef" in scene.words


def test_connections_reach_the_guest(tmp_path: Path) -> None:
    received = b""

    async def talk(machine: RunningMachine) -> None:
        nonlocal received
        stream = await machine.dial()
        await stream.write(b"word")
        await stream.finish()
        received = await stream.read()
        stream.close()
        await machine.stop()

    asyncio.run(Scene(tmp_path, "").play(talk))
    assert received == b"word"


def test_a_renewed_certificate_is_published(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "renews")
    asyncio.run(scene.play(stop))
    assert scene.published == [CERTIFICATE, CERTIFICATE.replace("fake", "renewed")]


def test_a_guest_that_does_not_listen_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STOP_PATIENCE", 0.05)
    monkeypatch.setattr(running, "_KILL_PATIENCE", 0.05)
    asyncio.run(Scene(tmp_path, "deaf").play(stop))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("panics", "guest-panic: "),
        ("crashes", "qemu-died: QEMU ended with killed by SIGSEGV"),
        ("powers-off", "guest-shutdown: "),
        ("fails", "guest-failed: no room for the keep\\x1b[2J"),
        ("garbage-on-control", "guest-confused: "),
        ("endless-line", "guest-confused: "),
        ("garbage-on-data", "channel-broken: "),
    ],
)
def test_a_machine_that_ends_by_itself_says_why(tmp_path: Path, behaviour: str, reason: str) -> None:
    assert failure(Scene(tmp_path, behaviour)).startswith(reason)


def test_the_last_words_are_those_of_the_console_and_of_qemu(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "crashes")
    failure(scene)
    assert "console: last words" in scene.words
    assert "QEMU: qemu: guest did something impossible" in scene.words


def test_a_panic_shows_what_the_kernel_said(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "panics")
    failure(scene)
    assert any("Kernel panic" in line for line in scene.words)


def test_a_qemu_that_is_killed_is_told_from_one_that_crashed(tmp_path: Path) -> None:
    async def kill(machine: RunningMachine) -> None:
        os.kill(machine.pid, signal.SIGKILL)

    assert failure(Scene(tmp_path, ""), kill) == "qemu-died: QEMU ended with killed by SIGKILL"


def test_a_qemu_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "QEMU cannot be started: /nonexistent/qemu" in failure(Scene(tmp_path, "", qemu="/nonexistent/qemu"))


def test_a_machine_whose_tpm_is_killed_ends_and_names_it(tmp_path: Path) -> None:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed: apt-get install swtpm swtpm-tools")

    async def kill_tpm(machine: RunningMachine) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (tpm,) = (pid for pid in children if "swtpm" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(int(tpm), signal.SIGKILL)

    scene = Scene(tmp_path, "", backend=Backend.QEMU_VTPM)
    assert failure(scene, kill_tpm) == "tpm-died: swtpm ended with killed by SIGKILL"


def test_a_second_machine_on_the_disk_of_one_that_runs_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    said: list[str] = []
    echoed = b""

    async def try_another(machine: RunningMachine) -> None:
        nonlocal echoed
        # However the same file got into the state of two keeps.
        (second / DISK_FILE).hardlink_to(first / DISK_FILE)
        with pytest.raises(MachineError) as refused:
            await Scene(second, "").play(stop)
        said.append(str(refused.value))
        stream = await machine.dial()
        await stream.write(b"word")
        echoed = await stream.read()
        stream.close()
        await machine.stop()

    asyncio.run(Scene(first, "").play(try_another))
    assert said == [
        f"disk-in-use: another machine has {second / DISK_FILE}: end it, or give each keep a disk of its own"
    ]
    assert echoed == b"word"


def test_connections_reach_a_guest_by_a_vsock_device_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def talk(machine: RunningMachine) -> None:
        for word in (b"one", b"another"):
            stream = await machine.dial()
            await stream.write(word)
            received.append(await stream.read())
            stream.close()
        await machine.stop()

    folder = tmp_path / "vsock"
    folder.mkdir()
    (folder / "device").touch()
    asyncio.run(Scene(tmp_path, "", vsock_device=vsock_program(tmp_path)).play(talk))
    assert received == [b"one", b"another"]
    assert list(folder.iterdir()) == []


def test_a_vsock_device_that_dies_ends_its_machine_and_is_named(tmp_path: Path) -> None:
    async def kill(machine: RunningMachine) -> None:
        _, device = machine.programs()
        os.kill(device.pid, signal.SIGKILL)

    scene = Scene(tmp_path, "", vsock_device=vsock_program(tmp_path))
    assert failure(scene, kill) == "channel-died: vhost-device-vsock ended with killed by SIGKILL"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo no such option; exit 2", "vhost-device-vsock ended at once: no such option"),
        ("exec sleep 60", "vhost-device-vsock does not listen within 0.2 s"),
    ],
)
def test_a_vsock_device_that_does_not_start_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    if "sleep" in program:
        monkeypatch.setattr(vsock_device, "_START_SECONDS", 0.2)
    device = tmp_path / "device"
    device.write_text(f"#!/bin/sh\n{program}\n")
    device.chmod(0o755)
    assert failure(Scene(tmp_path, "", vsock_device=str(device))) == f"channel-died: {reason}"


def test_a_qemu_that_does_not_start_takes_its_vsock_device_along(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "", qemu="/nonexistent/qemu", vsock_device=vsock_program(tmp_path))
    assert "QEMU cannot be started" in failure(scene)
    assert list((tmp_path / "vsock").iterdir()) == []
