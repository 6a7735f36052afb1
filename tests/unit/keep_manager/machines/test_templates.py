"""Templates on disk: used while all that they depend on is the same, and given to keeps as what nobody can change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_image.manifest import Manifest, load_manifest
from keep_loader.machine.template import FrozenMachine, program_identity
from keep_manager.errors import TemplateError
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.template_files import MANIFEST, MEMORY, STATE, TemplateKey
from keep_manager.machines.templates import FOLDER, OpenTemplate, Templates
from keep_protocol.machine import Accelerator
from keep_protocol.spec import MiB
from tests.unit.keep_manager.machines.images import write_image

SIZE = 64 * MiB
WRITTEN = {0: b"first", 3 * MiB + 17: b"somewhere", SIZE - 4: b"last"}


class Host:
    """An image, a QEMU, and a template made of them."""

    def __init__(self, folder: Path) -> None:
        self.image = write_image(folder / "image")
        self.qemu = folder / "qemu"
        self.qemu.write_bytes(b"program")
        self.opened: list[int] = []
        self.templates = Templates(MachineSettings(image=self.image, qemu=self.qemu))

    @property
    def manifest(self) -> Manifest:
        return load_manifest(self.image)

    def key(self, memory: int = 64, processors: int = 1) -> TemplateKey:
        return self.templates.key(self.manifest, Accelerator.TCG, memory, processors)

    def make(self) -> Path:
        memory, state = os.memfd_create("memory"), os.memfd_create("state")
        try:
            os.ftruncate(memory, SIZE)
            for offset, content in WRITTEN.items():
                os.pwrite(memory, content, offset)
            os.pwrite(state, b"state of devices", 0)
            return self.templates.write(self.key(), FrozenMachine(memory, state))
        finally:
            os.close(memory)
            os.close(state)

    def open(self) -> OpenTemplate:
        template = self.templates.open(self.key())
        self.opened += [template.memory, template.state]
        return template

    def refusal(self, key: TemplateKey) -> str:
        with pytest.raises(TemplateError) as refused:
            self.templates.open(key)
        return str(refused.value)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for descriptor in host.opened:
        os.close(descriptor)
    host.templates.close()


def test_a_template_is_found_as_it_was_frozen(host: Host) -> None:
    host.make()
    template = host.open()
    assert os.fstat(template.memory).st_size == SIZE
    for offset, content in WRITTEN.items():
        assert os.pread(template.memory, len(content), offset) == content
    assert os.pread(template.state, 100, 0) == b"state of devices"
    assert host.templates.usable(host.manifest, Accelerator.TCG) == ("64 MiB and 1 processor",)


def test_memory_that_was_never_written_takes_no_room_on_disk_or_in_memory(host: Host) -> None:
    folder = host.make()
    assert (folder / MEMORY).stat().st_blocks * 512 < MiB
    assert os.fstat(host.open().memory).st_blocks * 512 < MiB


def test_nobody_who_has_a_template_can_change_it(host: Host) -> None:
    host.make()
    template = host.open()
    for descriptor in (template.memory, template.state):
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.pwrite(again, b"changed", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(again, 0)
        finally:
            os.close(again)


def test_keeps_of_one_template_share_its_memory(host: Host) -> None:
    host.make()
    first = host.open()
    second = host.templates.open(host.key())
    try:
        assert os.fstat(first.memory).st_ino == os.fstat(second.memory).st_ino
    finally:
        os.close(second.memory)
        os.close(second.state)


def test_a_shape_that_has_no_template_names_the_command_that_makes_one(host: Host) -> None:
    host.make()
    assert "keep-manager image template --memory 128M --vcpus 1" in host.refusal(host.key(memory=128))
    assert "none for 64 MiB and 2 processors" in host.refusal(host.key(processors=2))


def test_a_template_of_another_image_is_not_used(host: Host) -> None:
    host.make()
    write_image(host.image, initramfs=b"another")
    assert "template-outdated: that for 64 MiB and 1 processor is of another image" in host.refusal(host.key())
    assert host.templates.usable(host.manifest, Accelerator.TCG) == ()


def test_a_template_of_another_qemu_is_not_used(host: Host) -> None:
    host.make()
    host.qemu.write_bytes(b"a later program")
    assert "is made by another QEMU" in host.refusal(host.key())


def test_the_same_qemu_installed_once_more_goes_on_with_its_templates(host: Host) -> None:
    host.make()
    os.utime(host.qemu, ns=(1, 1))
    assert host.open().program == program_identity(host.qemu)


def test_a_template_of_another_accelerator_is_not_used(host: Host) -> None:
    host.make()
    key = host.templates.key(host.manifest, Accelerator.KVM, 64, 1)
    assert "is of another kind of machine" in host.refusal(key)


@pytest.mark.parametrize("name", [MEMORY, STATE])
def test_a_template_with_a_changed_byte_is_not_used(host: Host, name: str) -> None:
    folder = host.make()
    with (folder / name).open("r+b") as file:
        file.seek(5)
        file.write(b"!")
    assert f"template-damaged: {folder / name} was changed" in host.refusal(host.key())


def test_a_template_that_is_changed_while_it_is_used_is_used_no_more(host: Host) -> None:
    folder = host.make()
    host.open()
    with (folder / MEMORY).open("ab") as file:
        file.write(b"more")
    assert "template-damaged" in host.refusal(host.key())


@pytest.mark.parametrize("name", [MEMORY, STATE, MANIFEST])
def test_a_template_that_lacks_a_file_is_none(host: Host, name: str) -> None:
    (host.make() / name).unlink()
    assert "no-template" in host.refusal(host.key())


def test_a_manifest_that_makes_no_sense_is_damage(host: Host) -> None:
    (host.make() / MANIFEST).write_text("{}")
    assert "template-damaged" in host.refusal(host.key())


def test_templates_are_removed_and_made_anew(host: Host) -> None:
    host.make()
    host.make()
    assert host.templates.remove() == ["64M-1"]
    assert host.templates.remove() == []
    assert not (host.image / FOLDER).exists()
    assert "no-template" in host.refusal(host.key())
