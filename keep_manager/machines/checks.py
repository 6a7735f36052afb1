"""What a survey means for each kind of machine: every condition with what was found and, where it fails, the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keep_manager.machines.qemu_features import QemuFeatures
from keep_manager.machines.survey import USABLE_SPEED, Device, Survey
from keep_protocol.manager_api import BackendInfo, Check
from keep_protocol.states import Backend

_NEEDED_DEVICES: Final = ("virtio-serial-pci", "virtserialport", "virtio-rng-pci", "pvpanic")
_SNP_QEMU: Final = (9, 1, 0)
_TDX_QEMU: Final = (10, 1, 0)
_NITRO_QEMU: Final = (11, 0, 0)
_OLDEST_QEMU: Final = (7, 2, 0)
_SNP_TYPE, _TDX_TYPE = 1 << 4, 1 << 5

_ADVISORY: Final = frozenset({"kvm", "template", "vsock"})
"""Checks that machines of these kinds do without: more slowly, or in another way."""


def machine_backends(survey: Survey) -> tuple[BackendInfo, ...]:
    """Every kind of machine, in the order in which they trust the host less."""
    return (
        _info(Backend.QEMU, (*_base(survey), _disk(survey), _kvm(survey), _vsock(survey), _template(survey))),
        _info(Backend.QEMU_VTPM, (*_base(survey), _disk(survey), _kvm(survey), _vsock(survey), *_vtpm(survey))),
        _info(Backend.SNP, tuple(_snp(survey)), advisory=frozenset()),
        _info(Backend.TDX, tuple(_tdx(survey)), advisory=frozenset()),
        _info(Backend.NITRO, tuple(_nitro(survey)), advisory=frozenset()),
    )


def kernel_vsock(survey: Survey) -> bool:
    """Whether the host's kernel makes vsock devices for machines."""
    return not survey.devices["dev/vhost-vsock"].problem and _has_device(survey, "vhost-vsock-pci")


def program_vsock(survey: Survey) -> bool:
    """Whether vhost-device-vsock does."""
    return not survey.vsock_device_problem and _has_device(survey, "vhost-user-vsock-pci")


def failed_check(info: BackendInfo) -> Check | None:
    """The first check for whose sake a backend is not available."""
    return next((check for check in info.checks if not check.passed and check.name not in _advisory(info.name)), None)


def _info(backend: Backend, checks: tuple[Check, ...], advisory: frozenset[str] = _ADVISORY) -> BackendInfo:
    return BackendInfo(backend, all(check.passed or check.name in advisory for check in checks), checks)


def _advisory(backend: Backend) -> frozenset[str]:
    return _ADVISORY if backend in {Backend.QEMU, Backend.QEMU_VTPM} else frozenset()


def _base(survey: Survey) -> Iterator[Check]:
    yield _qemu(survey, _OLDEST_QEMU)
    if isinstance(survey.qemu, QemuFeatures):
        missing = [name for name in _NEEDED_DEVICES if name not in survey.qemu.devices]
        yield _check("qemu-devices", not missing, "virtio-serial, random numbers, panic device", _lacks(missing))
    yield _image(survey)


def _qemu(survey: Survey, oldest: tuple[int, int, int]) -> Check:
    found = survey.qemu
    if not isinstance(found, QemuFeatures):
        return Check("qemu", False, "", f"{found}: install `qemu-system-x86`, or set `machines.qemu` to its path")
    wanted = ".".join(map(str, oldest[:2]))
    message = f"QEMU {found.version_text} is too old: {wanted} or later is needed, from backports or the next release"
    return _check("qemu", found.version >= oldest, f"{survey.settings.qemu}, version {found.version_text}", message)


def _image(survey: Survey) -> Check:
    image = survey.image
    if isinstance(image, str):
        return Check("image", False, "", image)
    manifest = image.manifest
    digests = f"kernel {manifest.kernel.sha256[:16]}…, initramfs {manifest.initramfs.sha256[:16]}…"
    return Check("image", True, f"{image.folder}: {digests}, {manifest.size / 1e6:.1f} MB")


def _disk(survey: Survey) -> Check:
    return _file("mke2fs", survey.settings.mke2fs, "install the package `e2fsprogs`, or set `machines.mke2fs`")


def _template(survey: Survey) -> Check:
    message = "none for this image and QEMU, so machines boot: `keep-manager image template` makes one to be cloned"
    return _check("template", bool(survey.templates), f"for {', '.join(survey.templates)}", message)


def _kvm(survey: Survey) -> Check:
    kvm, device = survey.processor.kvm, survey.devices["dev/kvm"]
    speed = f"a guest makes {kvm.steps_per_second / 1e6:.1f} million steps/s"
    if kvm.error:
        problem = kvm.error
    elif not kvm.usable:
        wanted = f"{USABLE_SPEED // 1_000_000} are wanted"
        problem = (
            f"{speed}, {wanted}: /dev/kvm interprets guests here; take a host with VMX, SVM or nested virtualisation"
        )
    else:
        problem = device.problem
    return _check("kvm", not problem, speed, f"{problem}; without it machines are translated (TCG), more slowly")


def _vsock(survey: Survey) -> Check:
    if kernel_vsock(survey):
        return Check("vsock", True, f"{survey.devices['dev/vhost-vsock'].path}")
    if program_vsock(survey):
        return Check("vsock", True, f"{survey.settings.vhost_device_vsock}, {survey.vsock_device}")
    problems = (survey.devices["dev/vhost-vsock"].problem, survey.vsock_device_problem)
    found = "; ".join(problem or "this QEMU has no such device" for problem in problems)
    remedy = "load the module `vhost_vsock`, or install the package `vhost-device-vsock`"
    return Check("vsock", False, "", f"{found}: {remedy}; without them connections share a port of virtio-serial")


def _has_device(survey: Survey, name: str) -> bool:
    return isinstance(survey.qemu, QemuFeatures) and name in survey.qemu.devices


def _vtpm(survey: Survey) -> Iterator[Check]:
    missing = "tpm-crb" if isinstance(survey.qemu, QemuFeatures) and "tpm-crb" not in survey.qemu.devices else ""
    yield _check("tpm-device", not missing, "tpm-crb", _lacks(["tpm-crb"]))
    yield _check(
        "swtpm",
        not survey.swtpm_problem,
        survey.swtpm,
        f"{survey.swtpm_problem}: install the packages `swtpm` and `swtpm-tools`",
    )
    yield _file("firmware", survey.settings.firmware, "install the package `ovmf`: SeaBIOS measures no kernel")


def _snp(survey: Survey) -> Iterator[Check]:
    yield _qemu(survey, _SNP_QEMU)
    yield _has_object(survey, "sev-snp-guest")
    encryption = survey.processor.encryption
    where = f"bit {encryption.encryption_bit} of addresses, {encryption.lost_address_bits} fewer"
    yield _check("processor", encryption.snp, where, "CPUID has no SEV-SNP: it takes AMD EPYC Milan or later")
    yield _parameter(survey, "kvm_amd.sev_snp", "enable SEV-SNP in the BIOS (SMEE, SNP memory coverage, RMP) and IOMMU")
    yield _vm_type(survey, _SNP_TYPE, "SEV-SNP", "a host kernel from 6.11 with CONFIG_KVM_AMD_SEV")
    yield _device(survey.devices["dev/sev"], "load the module `ccp`")
    yield _kvm(survey)
    yield _file("firmware", survey.settings.snp_firmware, "install the package `ovmf-amdsev`: others check no kernel")
    yield _image(survey)


def _tdx(survey: Survey) -> Iterator[Check]:
    yield _qemu(survey, _TDX_QEMU)
    yield _has_object(survey, "tdx-guest")
    remedy = "enable TDX in the BIOS (TME-MT, TDX, SEAM loader) and give the kernel kvm_intel.tdx=1"
    yield _parameter(survey, "kvm_intel.tdx", remedy)
    yield _vm_type(survey, _TDX_TYPE, "TDX", "a host kernel from 6.16 with CONFIG_INTEL_TDX_HOST")
    yield _kvm(survey)
    yield _file("firmware", survey.settings.tdx_firmware, "install the package `ovmf` of 2025 or later")
    yield _file("quote-service", survey.settings.quote_socket, "start Intel's quote generation service (QGS)")
    yield _image(survey)


def _nitro(survey: Survey) -> Iterator[Check]:
    yield _qemu(survey, _NITRO_QEMU)
    known = isinstance(survey.qemu, QemuFeatures) and "nitro" in survey.qemu.accelerators
    yield _check("nitro-accelerator", known, "`-accel nitro`", "this QEMU lacks `-accel nitro`: it takes version 11")
    remedy = "use an EC2 instance with enclaves enabled, and load the module `nitro_enclaves`"
    yield _device(survey.devices["dev/nitro_enclaves"], remedy)
    yield _image(survey)
    yield Check("launcher", False, "", "this version knows the command line of an enclave and cannot talk to one yet")


def _has_object(survey: Survey, name: str) -> Check:
    known = isinstance(survey.qemu, QemuFeatures) and name in survey.qemu.objects
    return _check(f"qemu-{name}", known, f"`-object {name}`", f"this QEMU lacks the object `{name}`: take a later one")


def _parameter(survey: Survey, name: str, remedy: str) -> Check:
    value = survey.parameters[name]
    found = "the module is not loaded" if value is None else f"it is {value!r}"
    return _check(name, value in {"Y", "1"}, f"{value}", f"{name}: {found}; {remedy}")


def _vm_type(survey: Survey, bit: int, name: str, remedy: str) -> Check:
    kvm = survey.processor.kvm
    found = kvm.error or f"KVM_CAP_VM_TYPES is {kvm.vm_types:#x}"
    message = f"KVM makes no {name} machines ({found}): it takes {remedy}"
    return _check("kvm-vm-type", bool(kvm.vm_types & bit), found, message)


def _device(device: Device, remedy: str) -> Check:
    return _check(device.path.name, not device.problem, f"{device.path}", f"{device.problem}; {remedy}")


def _file(name: str, path: Path, remedy: str) -> Check:
    return _check(name, path.exists(), f"{path}", f"{path} is missing: {remedy}")


def _lacks(names: list[str]) -> str:
    return f"this QEMU was built without {', '.join(names)}: install the distribution's `qemu-system-x86`"


def _check(name: str, passed: bool, info: str, message: str) -> Check:
    return Check(name, passed, info if passed else "", "" if passed else message)
