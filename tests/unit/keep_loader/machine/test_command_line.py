"""QEMU's command lines: what each kind of machine is started with, and what it must not have."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from dataclasses import replace

import pytest

from keep_loader.errors import MachineError
from keep_loader.machine.command_line import arguments, spec_config_id
from keep_loader.machine.shape import (
    EncryptedMemory,
    MachineShape,
    MemoryFile,
    SerialChannel,
    VhostUserVsockChannel,
    VsockChannel,
)
from keep_protocol.machine import Accelerator
from keep_protocol.states import Backend

SPEC = hashlib.sha256(b"spec").digest()

PLAIN = MachineShape(
    backend=Backend.QEMU,
    qemu="/usr/bin/qemu-system-x86_64",
    accelerator=Accelerator.TCG,
    memory=512,
    processors=2,
    kernel="/proc/self/fd/10",
    initramfs="/proc/self/fd/11",
    command_line="console=ttyS0 panic=-1",
    spec_sha256=SPEC,
    monitor=3,
    console=4,
    control=5,
    channel=SerialChannel(6),
)
VTPM = replace(PLAIN, backend=Backend.QEMU_VTPM, firmware="/proc/self/fd/12", tpm=7)
SNP = replace(
    PLAIN,
    backend=Backend.SNP,
    accelerator=Accelerator.KVM,
    firmware="/proc/self/fd/12",
    channel=VsockChannel(42),
    encrypted_memory=EncryptedMemory(51, 1),
)
TDX = replace(
    PLAIN,
    backend=Backend.TDX,
    accelerator=Accelerator.KVM,
    firmware="/proc/self/fd/12",
    channel=VsockChannel(42),
    quote_socket="/run/qgs.socket",
)
BY_PROGRAM = replace(PLAIN, channel=VhostUserVsockChannel(8))
DISK = replace(PLAIN, disk="/proc/self/fd/13")
TEMPLATE = replace(DISK, memory_file=MemoryFile("/proc/self/fd/14", shared=True))
CLONE = replace(DISK, memory_file=MemoryFile("/proc/self/fd/14", shared=False))
NITRO = replace(PLAIN, backend=Backend.NITRO, accelerator=Accelerator.NITRO, channel=VsockChannel(16))
ALL = [PLAIN, BY_PROGRAM, DISK, VTPM, SNP, TDX, NITRO]


def values(shape: MachineShape, option: str) -> list[str]:
    """All values of an option, in order."""
    line = arguments(shape)
    return [value for name, value in itertools.pairwise(line) if name == option]


def value(shape: MachineShape, option: str) -> str:
    (only,) = values(shape, option)
    return only


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.backend.value)
class TestEveryMachine:
    def test_starts_from_the_image_and_from_nothing_else(self, shape: MachineShape) -> None:
        assert value(shape, "-kernel") == "/proc/self/fd/10"
        assert value(shape, "-initrd") == "/proc/self/fd/11"
        assert value(shape, "-append") == "console=ttyS0 panic=-1"
        assert not {"-drive", "-hda", "-cdrom", "-virtfs"} & set(arguments(shape))

    def test_has_no_network_device_and_no_defaults_that_would_bring_one(self, shape: MachineShape) -> None:
        line = arguments(shape)
        assert {"-nodefaults", "-no-user-config"} <= set(line)
        assert not {"-netdev", "-nic", "-net"} & set(line)

    def test_has_the_memory_and_the_processors_of_its_spec(self, shape: MachineShape) -> None:
        assert value(shape, "-m") == "512M"
        assert value(shape, "-smp") == "2"

    def test_gives_way_to_its_monitor(self, shape: MachineShape) -> None:
        assert "socket,id=monitor,fd=3" in values(shape, "-chardev")
        assert value(shape, "-mon") == "chardev=monitor,mode=control"


@pytest.mark.parametrize("shape", [PLAIN, VTPM, SNP, TDX], ids=lambda shape: shape.backend.value)
def test_qemu_gives_up_what_it_does_not_need(shape: MachineShape) -> None:
    sandbox = value(shape, "-sandbox").split(",")
    assert set(sandbox) == {
        *("on", "obsolete=deny", "elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny"),
    }


@pytest.mark.parametrize("shape", [PLAIN, VTPM, SNP, TDX], ids=lambda shape: shape.backend.value)
def test_a_guest_that_panics_ends_its_machine(shape: MachineShape) -> None:
    assert "-no-reboot" in arguments(shape)


def test_a_machine_without_kvm_is_translated_for_a_processor_that_has_what_python_needs() -> None:
    assert value(PLAIN, "-accel").startswith("tcg,thread=multi")
    assert value(PLAIN, "-cpu") == "max,-erms,-fsrm"


def test_a_vsock_device_beside_qemu_shares_the_guests_memory() -> None:
    assert value(BY_PROGRAM, "-machine").endswith(",memory-backend=ram")
    (memory,) = [value for value in values(BY_PROGRAM, "-object") if value.startswith("memory-backend-")]
    assert memory == "memory-backend-memfd,id=ram,size=512M,share=on,prealloc=off"
    assert "socket,id=vsock,fd=8" in values(BY_PROGRAM, "-chardev")
    assert "vhost-user-vsock-pci,chardev=vsock" in values(BY_PROGRAM, "-device")
    assert not any("org.wasmkeep.data" in value for value in values(BY_PROGRAM, "-device"))


def test_a_machine_with_kvm_has_the_processor_of_its_host() -> None:
    shape = replace(PLAIN, accelerator=Accelerator.KVM)
    assert (value(shape, "-accel"), value(shape, "-cpu")) == ("kvm", "host")


def test_ports_have_the_names_by_which_the_guest_knows_them() -> None:
    devices = values(PLAIN, "-device")
    assert "virtserialport,bus=ports.0,chardev=control,name=org.wasmkeep.control" in devices
    assert "virtserialport,bus=ports.0,chardev=data,name=org.wasmkeep.data" in devices


def test_with_vsock_there_is_no_port_for_data() -> None:
    devices = values(replace(PLAIN, channel=VsockChannel(42)), "-device")
    assert "vhost-vsock-pci,guest-cid=42" in devices
    assert not [device for device in devices if "org.wasmkeep.data" in device]


def test_memory_that_is_not_encrypted_goes_back_to_the_host_when_it_is_free() -> None:
    for shape in (PLAIN, VTPM):
        assert "virtio-balloon-pci,free-page-reporting=on" in values(shape, "-device")
    for shape in (SNP, TDX, NITRO):
        assert "balloon" not in " ".join(arguments(shape))


def test_a_plain_machine_has_no_firmware_that_costs_time() -> None:
    assert "-bios" not in arguments(PLAIN)


def test_a_measured_machine_has_firmware_that_measures_and_a_tpm() -> None:
    assert value(VTPM, "-bios") == "/proc/self/fd/12"
    assert value(VTPM, "-tpmdev") == "emulator,id=tpm0,chardev=tpm"
    assert "socket,id=tpm,fd=7" in values(VTPM, "-chardev")
    assert "tpm-crb,tpmdev=tpm0" in values(VTPM, "-device")


def test_snp_signs_the_spec_and_allows_no_debugging() -> None:
    options = dict(part.partition("=")[::2] for part in value_of_object(SNP, "sev-snp-guest").split(",")[1:])
    assert base64.b64decode(options["host-data"]) == SPEC
    assert int(options["policy"], 16) & 1 << 19 == 0
    assert (options["cbitpos"], options["reduced-phys-bits"], options["kernel-hashes"]) == ("51", "1", "on")
    assert "confidential-guest-support=tee" in value(SNP, "-machine")


def test_snp_names_its_processor_because_the_launch_digest_covers_it() -> None:
    assert value(SNP, "-cpu") == "EPYC-v4"


def test_tdx_carries_the_spec_in_its_configuration_id() -> None:
    guest = json.loads(next(text for text in values(TDX, "-object") if text.startswith("{")))
    assert base64.b64decode(guest["mrconfigid"]) == spec_config_id(SPEC) == SPEC + bytes(16)
    assert guest["quote-generation-socket"] == {"type": "unix", "path": "/run/qgs.socket"}


def test_tdx_without_a_quote_service_starts_and_cannot_quote() -> None:
    guest = json.loads(next(text for text in values(replace(TDX, quote_socket=""), "-object") if "{" in text))
    assert "quote-generation-socket" not in guest


def test_an_enclave_is_reached_by_vsock_alone() -> None:
    assert (value(NITRO, "-machine"), value(NITRO, "-accel")) == ("nitro", "nitro")
    with pytest.raises(MachineError, match="vsock alone"):
        arguments(replace(NITRO, channel=SerialChannel(6)))


@pytest.mark.parametrize(
    ("shape", "lack"),
    [
        (replace(VTPM, tpm=None), "control channel"),
        (replace(VTPM, firmware=None), "firmware"),
        (replace(SNP, encrypted_memory=None), "encrypts memory"),
        (replace(SNP, firmware=None), "firmware"),
        (replace(SNP, accelerator=Accelerator.TCG), "KVM alone"),
        (replace(TDX, accelerator=Accelerator.TCG), "KVM alone"),
        (replace(PLAIN, backend=Backend.PROCESS), "no machine of the kind process"),
    ],
)
def test_a_machine_that_lacks_something_is_not_started_without_it(shape: MachineShape, lack: str) -> None:
    with pytest.raises(MachineError, match=lack):
        arguments(shape)


def test_a_template_writes_its_memory_into_a_file_and_a_clone_into_its_own() -> None:
    memory = "memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/14,share="
    assert memory + "on" in values(TEMPLATE, "-object")
    assert memory + "off" in values(CLONE, "-object")
    assert value(CLONE, "-incoming") == "defer"
    assert values(TEMPLATE, "-incoming") == []


def test_a_clone_has_the_devices_of_its_template_and_is_not_booted() -> None:
    for option in ("-machine", "-cpu", "-m", "-smp", "-device", "-blockdev", "-chardev"):
        assert values(CLONE, option) == values(TEMPLATE, option)
    for option in ("-kernel", "-initrd", "-append"):
        assert values(TEMPLATE, option)
        assert values(CLONE, option) == []


@pytest.mark.parametrize("shape", [VTPM, SNP, TDX, NITRO], ids=lambda shape: shape.backend.value)
def test_a_machine_that_proves_how_it_was_started_is_never_cloned(shape: MachineShape) -> None:
    with pytest.raises(MachineError, match="is never cloned: it proves how it was started"):
        arguments(replace(shape, memory_file=CLONE.memory_file))


def value_of_object(shape: MachineShape, kind: str) -> str:
    return next(text for text in values(shape, "-object") if text.startswith(kind))


def test_a_full_disk_of_the_hosts_is_reported_to_the_guest_and_does_not_stop_it() -> None:
    (disk,) = values(DISK, "-blockdev")
    assert json.loads(disk)["file"]["filename"] == "/proc/self/fd/13"
    assert "virtio-blk-pci,drive=disk,werror=report,rerror=report" in values(DISK, "-device")
    for shape in (PLAIN, SNP, TDX, NITRO):
        assert values(shape, "-blockdev") == []


@pytest.mark.parametrize("shape", [PLAIN, VTPM, SNP, TDX])
def test_a_guest_that_asks_for_endless_randomness_is_given_so_much_a_second(shape: MachineShape) -> None:
    (device,) = (device for device in values(shape, "-device") if device.startswith("virtio-rng-pci"))
    assert device == "virtio-rng-pci,rng=entropy,max-bytes=65536,period=1000"
