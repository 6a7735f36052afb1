"""From a survey to what is available: every lack is named with its remedy, and nothing is taken for granted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keep_manager.machines.checks import failed_check, kernel_vsock, machine_backends, program_vsock
from keep_manager.machines.guest_image import GuestImages
from keep_manager.machines.qemu_features import QemuFeatures
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.survey import (
    DEVICES,
    PARAMETERS,
    Device,
    Encryption,
    KvmResult,
    ProcessorResult,
    Survey,
)
from keep_protocol.machine import Accelerator
from keep_protocol.manager_api import BackendInfo, Check
from keep_protocol.states import Backend
from tests.unit.keep_manager.machines import fake_programs
from tests.unit.keep_manager.machines.images import write_image

NEWEST = QemuFeatures(
    version=(11, 1, 3),
    objects=frozenset({"sev-snp-guest", "tdx-guest"}),
    accelerators=frozenset({"tcg", "kvm", "nitro"}),
    devices=frozenset(fake_programs.DEVICES),
)
FAST = KvmResult(vm_types=0x31, steps_per_second=10**9)
SLOW = KvmResult(vm_types=1, steps_per_second=1_300_000)


@pytest.fixture
def best(tmp_path: Path) -> Survey:
    """A host that has everything there is; no such machine exists."""
    firmware = tmp_path / "OVMF.fd"
    firmware.touch()
    image = GuestImages(write_image(tmp_path / "image")).look()
    settings = MachineSettings(firmware=firmware, snp_firmware=firmware, tdx_firmware=firmware, quote_socket=firmware)
    return Survey(
        settings=settings,
        qemu=NEWEST,
        processor=ProcessorResult(FAST, Encryption(snp=True, encryption_bit=51, lost_address_bits=1)),
        swtpm="TPM emulator version 0.10",
        swtpm_problem="",
        vsock_device="vhost-device-vsock 0.3.0",
        vsock_device_problem="",
        image=image,
        devices={name: Device(Path("/", name), "") for name in DEVICES},
        parameters=dict.fromkeys(PARAMETERS, "Y"),
        templates=("512 MiB and 1 processor",),
    )


def info(survey: Survey, backend: Backend) -> BackendInfo:
    return next(found for found in machine_backends(survey) if found.name is backend)


def the_lack(survey: Survey, backend: Backend) -> Check:
    """The one check that fails."""
    found = info(survey, backend)
    (failed,) = [check for check in found.checks if not check.passed]
    assert failed == failed_check(found)
    assert not found.available
    return failed


def with_kvm(survey: Survey, kvm: KvmResult) -> Survey:
    return replace(survey, processor=ProcessorResult(kvm, survey.processor.encryption))


@pytest.mark.parametrize("backend", [Backend.QEMU, Backend.QEMU_VTPM, Backend.SNP, Backend.TDX])
def test_a_host_that_has_everything_can_start_it(best: Survey, backend: Backend) -> None:
    found = info(best, backend)
    assert (found.available, failed_check(found)) == (True, None)


def test_enclaves_are_not_started_even_there(best: Survey) -> None:
    assert the_lack(best, Backend.NITRO).name == "launcher"


@pytest.mark.parametrize("kvm", [SLOW, KvmResult(error="/dev/kvm: No such file or directory")])
def test_without_usable_kvm_plain_machines_are_translated_and_say_so(best: Survey, kvm: KvmResult) -> None:
    survey = with_kvm(best, kvm)
    assert survey.accelerator is Accelerator.TCG
    found = info(survey, Backend.QEMU)
    assert found.available
    (failed,) = [check for check in found.checks if not check.passed]
    assert failed.name == "kvm"
    assert "translated (TCG)" in failed.message


def test_the_speed_that_was_measured_is_shown(best: Survey) -> None:
    failed = the_lack_of_kvm(with_kvm(best, SLOW))
    assert "1.3 million steps/s" in failed.message
    passed = next(check for check in info(best, Backend.QEMU).checks if check.name == "kvm")
    assert passed.info == "a guest makes 1000.0 million steps/s"


def test_without_a_template_plain_machines_boot_and_say_how_to_get_one(best: Survey) -> None:
    found = info(replace(best, templates=()), Backend.QEMU)
    assert found.available
    (failed,) = [check for check in found.checks if not check.passed]
    assert failed.name == "template"
    assert "keep-manager image template" in failed.message


def the_lack_of_kvm(survey: Survey) -> Check:
    return next(check for check in info(survey, Backend.QEMU).checks if check.name == "kvm")


def test_a_fast_kvm_that_keeps_may_not_open_is_not_used(best: Survey) -> None:
    closed = Device(Path("/dev/kvm"), "/dev/kvm is closed to the users of keeps")
    survey = replace(best, devices={**best.devices, "dev/kvm": closed})
    assert survey.accelerator is Accelerator.TCG
    assert "closed to the users of keeps" in the_lack_of_kvm(survey).message


def vsock(survey: Survey) -> Check:
    found = info(survey, Backend.QEMU)
    assert found.available
    return next(check for check in found.checks if check.name == "vsock")


def without_kernel_vsock(survey: Survey) -> Survey:
    missing = Device(Path("/dev/vhost-vsock"), "/dev/vhost-vsock: No such file or directory")
    return replace(survey, devices={**survey.devices, "dev/vhost-vsock": missing})


def test_the_kernels_vsock_goes_before_that_of_a_program(best: Survey) -> None:
    assert (kernel_vsock(best), program_vsock(best)) == (True, True)
    assert vsock(best) == Check("vsock", True, "/dev/vhost-vsock")
    survey = without_kernel_vsock(best)
    assert (kernel_vsock(survey), program_vsock(survey)) == (False, True)
    assert vsock(survey) == Check("vsock", True, "/usr/bin/vhost-device-vsock, vhost-device-vsock 0.3.0")


def test_machines_without_vsock_start_all_the_same_and_say_how_they_are_reached(best: Survey) -> None:
    missing = "/usr/bin/vhost-device-vsock is not there"
    survey = replace(without_kernel_vsock(best), vsock_device="", vsock_device_problem=missing)
    assert (kernel_vsock(survey), program_vsock(survey)) == (False, False)
    failed = vsock(survey)
    assert not failed.passed
    assert failed.message.startswith(f"/dev/vhost-vsock: No such file or directory; {missing}: ")
    assert "virtio-serial" in failed.message


def test_a_vsock_for_which_qemu_has_no_device_is_not_used(best: Survey) -> None:
    without = NEWEST.devices - {"vhost-vsock-pci", "vhost-user-vsock-pci"}
    survey = replace(best, qemu=replace(NEWEST, devices=without))
    assert (kernel_vsock(survey), program_vsock(survey)) == (False, False)
    assert "this QEMU has no such device" in vsock(survey).message


@pytest.mark.parametrize("backend", [Backend.SNP, Backend.TDX])
def test_trusted_hardware_needs_kvm(best: Survey, backend: Backend) -> None:
    survey = with_kvm(best, replace_speed(FAST))
    assert the_lack(survey, backend).name == "kvm"


def replace_speed(kvm: KvmResult) -> KvmResult:
    return KvmResult(vm_types=kvm.vm_types, steps_per_second=SLOW.steps_per_second)


@pytest.mark.parametrize(
    ("backend", "version", "wanted"),
    [
        (Backend.QEMU, (6, 0, 0), "7.2 or later"),
        (Backend.SNP, (9, 0, 4), "9.1 or later"),
        (Backend.TDX, (10, 0, 13), "10.1 or later"),
    ],
)
def test_a_qemu_that_is_too_old_is_told_what_is_new_enough(
    best: Survey, backend: Backend, version: tuple[int, int, int], wanted: str
) -> None:
    failed = the_lack(replace(best, qemu=replace(NEWEST, version=version)), backend)
    assert failed.name == "qemu"
    assert wanted in failed.message


@pytest.mark.parametrize(("backend", "name"), [(Backend.SNP, "sev-snp-guest"), (Backend.TDX, "tdx-guest")])
def test_a_qemu_without_the_object_is_told(best: Survey, backend: Backend, name: str) -> None:
    survey = replace(best, qemu=replace(NEWEST, objects=frozenset()))
    assert the_lack(survey, backend).name == f"qemu-{name}"


def test_a_qemu_that_is_missing_names_the_package(best: Survey) -> None:
    failed = failed_check(info(replace(best, qemu="/usr/bin/qemu: No such file"), Backend.QEMU))
    assert failed is not None
    assert "install `qemu-system-x86`" in failed.message


def test_an_image_that_is_missing_makes_every_machine_impossible(best: Survey) -> None:
    survey = replace(best, image="there is no image: `keep-manager image build`")
    for found in machine_backends(survey):
        assert not found.available
        assert "keep-manager image build" in next(check for check in found.checks if check.name == "image").message


@pytest.mark.parametrize(
    ("backend", "name"),
    [(Backend.SNP, "kvm_amd.sev_snp"), (Backend.TDX, "kvm_intel.tdx")],
)
@pytest.mark.parametrize("value", ["N", "0", None])
def test_a_module_with_the_feature_off_names_the_switch_of_the_bios(
    best: Survey, backend: Backend, name: str, value: str | None
) -> None:
    failed = the_lack(replace(best, parameters={**best.parameters, name: value}), backend)
    assert failed.name == name
    assert "BIOS" in failed.message


@pytest.mark.parametrize(("backend", "bit"), [(Backend.SNP, 1 << 4), (Backend.TDX, 1 << 5)])
def test_a_kvm_that_makes_no_such_machines_is_told_by_its_own_word(best: Survey, backend: Backend, bit: int) -> None:
    kvm = KvmResult(vm_types=FAST.vm_types & ~bit, steps_per_second=FAST.steps_per_second)
    failed = the_lack(with_kvm(best, kvm), backend)
    assert failed.name == "kvm-vm-type"
    assert f"{kvm.vm_types:#x}" in failed.message


def test_a_measured_machine_needs_a_tpm_in_software(best: Survey) -> None:
    failed = the_lack(replace(best, swtpm_problem="/usr/bin/swtpm is not there"), Backend.QEMU_VTPM)
    assert "install the packages `swtpm` and `swtpm-tools`" in failed.message


@pytest.mark.parametrize(
    ("backend", "field"),
    [(Backend.QEMU_VTPM, "firmware"), (Backend.SNP, "snp_firmware"), (Backend.TDX, "tdx_firmware")],
)
def test_firmware_that_is_missing_names_the_package(best: Survey, backend: Backend, field: str) -> None:
    missing: Any = {field: Path("/nonexistent/OVMF.fd")}
    settings = replace(best.settings, **missing)
    failed = the_lack(replace(best, settings=settings), backend)
    assert failed.name == "firmware"
    assert "install the package `ovmf" in failed.message
