"""A machine that could be a clone, and what becomes of its keep when it cannot."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_client.specs import new_spec
from keep_loader.machine.launch import Order
from keep_loader.machine.starting import start_machine
from keep_loader.machine.template import program_identity
from keep_protocol.guest_control import GUEST_PROTOCOL_VERSION, GuestConfiguration
from keep_protocol.handover import Configuration
from keep_protocol.machine import (
    INITRAMFS_FD,
    KERNEL_FD,
    TEMPLATE_FDS,
    Accelerator,
    Machine,
    MachineStart,
    StartKind,
)
from keep_protocol.spec import Principal, canonical
from keep_protocol.states import Backend, GuestChannel, KeepRole
from tests.unit.keep_loader.machine.fake_qemu import CERTIFICATE, qemu_program
from tests.unit.keep_loader.machine.test_running import ROOT

SPEC = new_spec(principals=[Principal(roles=(KeepRole.OWNER,), certificate="AAAA")], backend=Backend.QEMU)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def published(folder: Path, *, template: bool = True, **changes: Any) -> list[tuple[str, MachineStart | None]]:
    """What a keep publishes, from a machine that was ordered with these changes."""
    qemu = qemu_program(folder)
    machine = Machine(
        qemu=qemu,
        accelerator=Accelerator.TCG,
        command_line="",
        channel=GuestChannel.SERIAL,
        mke2fs="/usr/sbin/mke2fs",
        program=program_identity(Path(qemu)),
    )
    configuration = Configuration(id="0" * 16, deployment="1" * 8, spec=canonical(SPEC).decode(), domain="x", names=())
    guest = GuestConfiguration(GUEST_PROTOCOL_VERSION, configuration, "ab" * 16, GuestChannel.SERIAL)
    facts: list[tuple[str, MachineStart | None]] = []
    with ExitStack() as stack:

        def memory() -> int:
            descriptor = os.memfd_create("file")
            stack.callback(os.close, descriptor)
            return descriptor

        names = {KERNEL_FD, INITRAMFS_FD, *(TEMPLATE_FDS if template else ())}
        order = Order(
            spec=SPEC,
            spec_sha256=bytes(32),
            machine=msgspec.structs.replace(machine, **changes),
            files={name: memory() for name in names},
            state=folder,
        )

        async def live() -> None:
            ready = asyncio.Event()
            running, told = await start_machine(
                order,
                guest,
                publish=lambda certificate, start: facts.append((certificate, start)),
                heartbeat=lambda: None,
                broker=None,
            )
            serving = asyncio.create_task(running.serve(None if told else guest, ready.set))
            try:
                await ready.wait()
                await running.stop()
                await serving
            finally:
                await running.close()

        asyncio.run(live())
    return facts


def reason(facts: list[tuple[str, MachineStart | None]]) -> str:
    ((certificate, start),) = facts
    assert certificate == CERTIFICATE
    assert start is not None
    assert start.kind is StartKind.COLD
    return start.reason


def test_a_clone_that_does_not_come_to_life_is_started_from_the_image_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The program in QEMU's place is one that knows no clones.
    assert reason(published(tmp_path)).startswith("clone-failed: qemu-died")
    assert "the keep starts from the image" in caplog.text


def test_a_template_of_another_qemu_is_not_tried(tmp_path: Path) -> None:
    assert "QEMU is not the one that made the template" in reason(published(tmp_path, program="1:2"))


def test_what_the_host_said_of_its_missing_template_is_passed_on(tmp_path: Path) -> None:
    assert reason(published(tmp_path, template=False, why_cold="no-template: none")) == "no-template: none"


def test_a_program_that_was_replaced_is_another(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("one")
    before = program_identity(program)
    os.utime(program, ns=(time.time_ns(), time.time_ns() + 1))
    assert program_identity(program) != before
