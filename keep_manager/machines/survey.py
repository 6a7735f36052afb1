"""Finds out what this host has for virtual machines, by trying it; `checks` says what follows from it."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from keep_image.manifest import default_folder
from keep_manager.errors import GuestImageError, ProgramError
from keep_manager.machines.commands import ask
from keep_manager.machines.guest_image import GuestImage, GuestImages
from keep_manager.machines.qemu_features import QemuFeatures, qemu_features
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.templates import Templates
from keep_protocol.machine import Accelerator
from keep_protocol.strict_json import decode_strictly

USABLE_SPEED: Final = 50_000_000
"""Steps of a guest's loop in a second from which on KVM counts as usable. Where guests are interpreted, 1 to 5 million
were measured; a processor that runs them itself makes hundreds of millions."""

_PROBE_DEADLINE: Final = 5.0


class KvmResult(msgspec.Struct, frozen=True):
    """What a tiny guest of KVM did."""

    error: str = ""
    vm_types: int = 0
    """KVM_CAP_VM_TYPES: bit 4 is SNP, bit 5 TDX."""
    steps_per_second: int = 0

    @property
    def usable(self) -> bool:
        return not self.error and self.steps_per_second >= USABLE_SPEED


class Encryption(msgspec.Struct, frozen=True):
    """CPUID 0x8000001f."""

    snp: bool = False
    encryption_bit: int = 0
    lost_address_bits: int = 0


class ProcessorResult(msgspec.Struct, frozen=True):
    """What `processor_probe` prints."""

    kvm: KvmResult
    encryption: Encryption


@dataclass(frozen=True, slots=True)
class Device:
    """A device node or a parameter of a kernel module."""

    path: Path
    problem: str
    """Why it is of no use; empty when it can be used."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at the host. What could not be found out is told by an error's text."""

    settings: MachineSettings
    qemu: QemuFeatures | str
    processor: ProcessorResult
    swtpm: str
    """Its version, or why there is none, after `swtpm_problem`."""
    swtpm_problem: str
    vsock_device: str
    """Version of vhost-device-vsock, or why there is none, after `vsock_device_problem`."""
    vsock_device_problem: str
    image: GuestImage | str
    devices: dict[str, Device]
    parameters: dict[str, str | None]
    """Content of /sys/module/MODULE/parameters/NAME by `MODULE.NAME`; None where it is missing."""
    templates: tuple[str, ...] = ()
    """Shapes of machines that can be clones, in words."""

    @property
    def accelerator(self) -> Accelerator:
        """KVM where a guest of it was fast, and QEMU's translator everywhere else."""
        usable = self.processor.kvm.usable and not self.devices["dev/kvm"].problem
        return Accelerator.KVM if usable else Accelerator.TCG


DEVICES: Final = ("dev/kvm", "dev/vhost-vsock", "dev/sev", "dev/nitro_enclaves", "dev/sgx_enclave")
PARAMETERS: Final = ("kvm_amd.sev", "kvm_amd.sev_es", "kvm_amd.sev_snp", "kvm_intel.tdx")


class Surveyor:
    """Looks again whenever it is asked; what cannot change while the machine runs is found out once."""

    def __init__(self, settings: MachineSettings, root: Path = Path("/")) -> None:
        """`root` is the root of the file system with devices and parameters."""
        self.images = GuestImages(settings.image or default_folder())
        self.templates = Templates(settings)
        self._settings = settings
        self._root = root
        self._processor: ProcessorResult | None = None
        self._programs: dict[tuple[str, int, int], QemuFeatures] = {}

    def look(self) -> Survey:
        """All of it: about a tenth of a second the first time, a hundredth later. Blocks."""
        if self._processor is None:
            self._processor = probe_processor()
        swtpm, swtpm_problem = self._swtpm()
        vsock_device, vsock_device_problem = _version(self._settings.vhost_device_vsock)
        survey = Survey(
            settings=self._settings,
            qemu=self._qemu(),
            processor=self._processor,
            swtpm=swtpm,
            swtpm_problem=swtpm_problem,
            vsock_device=vsock_device,
            vsock_device_problem=vsock_device_problem,
            image=self._image(),
            devices={name: self._device(name) for name in DEVICES},
            parameters={name: self._parameter(name) for name in PARAMETERS},
        )
        if isinstance(survey.image, str):
            return survey
        return replace(survey, templates=self.templates.usable(survey.image.manifest, survey.accelerator))

    def _qemu(self) -> QemuFeatures | str:
        path = self._settings.qemu
        try:
            status = path.stat()
        except OSError as error:
            return f"{path}: {error.strerror}"
        key = str(path), status.st_size, status.st_mtime_ns
        if key not in self._programs:
            try:
                self._programs = {key: qemu_features(path)}
            except ProgramError as error:
                return str(error)
        return self._programs[key]

    def _swtpm(self) -> tuple[str, str]:
        program = self._settings.swtpm
        setup = program.with_name(program.name + "_setup")
        for needed in (program, setup):
            if not os.access(needed, os.X_OK):
                return "", f"{needed} is not there"
        return _version(program)

    def _image(self) -> GuestImage | str:
        try:
            return self.images.look()
        except GuestImageError as error:
            return str(error)

    def _device(self, name: str) -> Device:
        path = self._root / name
        shown = Path("/", name)
        try:
            if not stat.S_ISCHR(path.stat().st_mode):
                return Device(shown, f"{shown} is no device")
        except OSError as error:
            return Device(shown, f"{shown}: {error.strerror}")
        # Where root starts keeps they have users of their own, so what root may do says nothing.
        others = bool(path.stat().st_mode & stat.S_IROTH)
        if not (others if os.geteuid() == 0 else os.access(path, os.R_OK | os.W_OK)):
            return Device(shown, f'{shown} is closed to the users of keeps: a udev rule with MODE="0666" opens it')
        return Device(shown, "")

    def _parameter(self, name: str) -> str | None:
        module, _, parameter = name.partition(".")
        try:
            return (self._root / "sys/module" / module / "parameters" / parameter).read_text().strip()
        except OSError:
            return None


def _version(program: Path) -> tuple[str, str]:
    """What it says of itself, or why it is of no use."""
    if not os.access(program, os.X_OK):
        return "", f"{program} is not there"
    try:
        return ask([str(program), "--version"]).strip().splitlines()[0][:80], ""
    except ProgramError as error:
        return "", str(error)
    except IndexError:
        return "", f"{program} says no version"


def probe_processor() -> ProcessorResult:
    """Run the probe in a process of its own, with a deadline: a KVM that hangs is as good as none."""
    command = [sys.executable, "-I", "-m", "keep_manager.machines.processor_probe"]
    try:
        return decode_strictly(ask(command, _PROBE_DEADLINE).encode(), ProcessorResult)
    except (ProgramError, msgspec.DecodeError) as error:
        return ProcessorResult(KvmResult(error=f"the probe of the processor failed: {error}"), Encryption())
