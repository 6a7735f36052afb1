"""Keeps that are virtual machines: from nothing to verified, memory, upload, and what of it is the machine's own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.bare_machine import first_userspace_output
from benchmarks.machine_uploads import uploads_to_machines
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.processes import settled_memory, settled_resident_memory, tree
from benchmarks.session import Session
from keep_attestation.ratls.peer import ExpectedKeep
from keep_client import Home, ManagerClient, connect_keep, new_spec, pinned_principal
from keep_image.build import build_image
from keep_image.errors import BuildError, PackageError
from keep_image.kernel_tools import kernel_tools
from keep_image.manifest import load_manifest
from keep_image.own_kernel import KernelStore, kernel_folder, recipe
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import load_pins
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.template_command import make as make_template
from keep_protocol.evidence import EvidenceKind
from keep_protocol.machine import StartKind
from keep_protocol.manager_api import Keep
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, canonical, spec_digest
from keep_protocol.states import AtRest, Backend, KeepRole
from testers.keepctl.attestation.image_policy import ExpectedImage, PolicyOfAnImage
from testers.keepctl.attestation.observation import observe

_COLD = Target(Comparison.RATIO, 2.5)
_MEASURED = Target(Comparison.RATIO, 4)
_CLONED = Target(Comparison.RATIO, 0.3)
_PRIVATE = Target(Comparison.VALUE, 80)
_RESIDENT = Target(Comparison.VALUE, 340)
_RESIDENT_OWN = Target(Comparison.VALUE, 250)
_IMAGE = Target(Comparison.VALUE, 40)

_MEMORY = 320
"""MiB of each machine."""
_CLONED_MEMORY = _MEMORY + 1
"""MiB of clones and their template: for machines of any other size there is none, so they boot."""
_MOST_ROUNDS = 5
"""A translated machine takes seconds to start."""


@dataclass(frozen=True)
class _Image:
    """A guest image to measure keeps with."""

    folder: Path
    kernel: str
    resident: Target


def measure(session: Session) -> list[Row | Omission]:
    """By QEMU's translator or by KVM, as the host has it; with Debian's kernel and, where one is kept, ours."""
    if missing := [name for name in ("qemu-system-x86_64", "swtpm_setup") if shutil.which(name) is None]:
        return [Omission("keeps that are virtual machines", f"{', '.join(missing)}: not installed")]
    stock = _Image(session.folder / "image", "Debian's kernel", _RESIDENT)
    try:
        build_image(stock.folder, load_pins(), PackageStore(default_cache()))
    except PackageError as error:
        return [Omission("keeps that are virtual machines", str(error))]
    rounds = 1 if session.quick else min(session.rounds, _MOST_ROUNDS)
    rows: list[Row | Omission] = [*_rows(session, stock, rounds), *_uploads(session, stock, rounds)]
    try:
        kernel = KernelStore(kernel_folder(default_cache())).require(recipe(load_pins().kernel_source, kernel_tools()))
    except BuildError as error:
        return [*rows, Omission("virtual machines with our own kernel", str(error))]
    own = _Image(session.folder / "own-image", "our kernel", _RESIDENT_OWN)
    build_image(own.folder, load_pins(), PackageStore(default_cache()), kernel=kernel)
    return [*rows, *_rows(session, own, rounds)]


def _rows(session: Session, image: _Image, rounds: int) -> list[Row]:
    """What depends on the kernel."""
    with session.deployment(image.folder) as deployment, ManagerClient.from_home(deployment.home) as manager:
        owner = _Owner(Home(deployment.home), manager, image.folder)
        make_template(MachineSettings(image=image.folder), _CLONED_MEMORY << 20, processors=1)
        cold, cloned, measured, bare = interleaved(
            rounds,
            owner.cold_keep,
            owner.cloned_keep,
            owner.measured_keep,
            partial(first_userspace_output, image.folder, _MEMORY),
        )
        resident = owner.resident_memory()
        private = owner.private_memory_of_clones()
    size = load_manifest(image.folder).size / 1e6
    return [
        Row(
            f"create a cold `qemu` keep → first verified status (SDK), {image.kernel}",
            "QEMU with the same kernel, devices and processor → first output of a program of 150 bytes as PID 1",
            Sample("s", cold),
            Sample("s", bare),
            _COLD,
        ),
        Row(
            f"create a `qemu` keep that is a clone of a template → first verified status (SDK), {image.kernel}",
            "create a cold `qemu` keep → first verified status",
            Sample("s", cloned),
            Sample("s", cold),
            _CLONED,
        ),
        Row(
            f"create a cold `qemu+vtpm` keep → its quote accepted against the image, {image.kernel}",
            "create a cold `qemu` keep → first verified status",
            Sample("s", measured),
            Sample("s", cold),
            _MEASURED,
        ),
        Row(
            f"resident memory of an idle `qemu` keep of {_MEMORY} MiB, {image.kernel}",
            "– (PSS of QEMU and the keep-loader)",
            Sample("MB", (resident,)),
            None,
            image.resident,
        ),
        Row(
            f"memory that an idle `qemu` keep of {_CLONED_MEMORY} MiB has for itself, of two clones, {image.kernel}",
            "– (USS of QEMU and the keep-loader)",
            Sample.of("MB", private),
            None,
            _PRIVATE,
        ),
        Row(f"guest image: initramfs and {image.kernel}", "–", Sample("MB", (size,)), None, _IMAGE),
    ]


def _uploads(session: Session, image: _Image, rounds: int) -> list[Row]:
    """What is the same whatever the kernel."""
    with session.deployment(image.folder) as deployment, ManagerClient.from_home(deployment.home) as manager:
        home = Home(deployment.home)
        owner = _Owner(home, manager, image.folder)
        specs = {at_rest: owner.spec(Backend.QEMU, at_rest) for at_rest in AtRest}
        return uploads_to_machines(home, manager, specs, image.folder, _MEMORY, rounds)


class _Owner:
    """Creates machines in a deployment, and owns them."""

    def __init__(self, home: Home, manager: ManagerClient, image: Path) -> None:
        self._home = home
        self._manager = manager
        self._image = ExpectedImage(folder=image, memory=_MEMORY << 20, allow_software_tpm=True)

    def cold_keep(self) -> float:
        """Seconds to the first verified status of a new machine."""
        return self._verified_keep(_MEMORY, StartKind.COLD)

    def cloned_keep(self) -> float:
        """The same of a machine that is a clone."""
        return self._verified_keep(_CLONED_MEMORY, StartKind.CLONE)

    def _verified_keep(self, memory: int, kind: StartKind) -> float:
        started = time.perf_counter()
        keep = self._manager.create_keep(self.spec(Backend.QEMU, memory=memory))
        with connect_keep(self._manager, keep.id) as connection:
            connection.verify()
            elapsed = time.perf_counter() - started
        self._check_start(keep, kind)
        self._manager.remove_keep(keep.id)
        return elapsed

    def _check_start(self, keep: Keep, kind: StartKind) -> None:
        start = self._manager.get_keep(keep.id).start
        if start is None or start.kind is not kind:
            raise RuntimeError(f"a machine that was to be {kind} is {start}")

    def measured_keep(self) -> float:
        """Seconds until a new machine has proved, by a quote on a connection, that it booted the image."""
        spec = self.spec(Backend.QEMU_VTPM)
        digest = spec_digest(canonical(spec))
        started = time.perf_counter()
        keep = self._manager.create_keep(spec)
        tables = self._image.tables(EvidenceKind.TPM, digest)
        policy = PolicyOfAnImage(name="image", image=tables, allow_software_tpm=True)
        expected = ExpectedKeep(keep=keep.id, spec_sha256=bytes.fromhex(digest))
        observed = observe(_endpoint(keep), self._home.operator, policy, expected)
        elapsed = time.perf_counter() - started
        self._manager.remove_keep(keep.id)
        if observed.verdict is None or not observed.verdict.accepted:
            raise RuntimeError(f"the machine does not prove the image: {observed.verdict}")
        return elapsed

    def resident_memory(self) -> float:
        """MB that a machine holds when it has given back what it does not need."""
        keep = self._manager.create_keep(self.spec(Backend.QEMU))
        resident = settled_resident_memory(partial(tree, _process(keep)))
        self._manager.remove_keep(keep.id)
        return resident

    def private_memory_of_clones(self) -> list[float]:
        """MB of each of two clones that nobody else has: what one alone has mapped would count as its own."""
        keeps = [self._manager.create_keep(self.spec(Backend.QEMU, memory=_CLONED_MEMORY)) for _ in range(2)]
        private = []
        for keep in keeps:
            self._check_start(keep, StartKind.CLONE)
            with connect_keep(self._manager, keep.id) as connection:
                connection.verify()
            private.append(settled_memory(partial(tree, _process(keep))) * 1024**2 / 1e6)
        for keep in keeps:
            self._manager.remove_keep(keep.id)
        return private

    def spec(self, backend: Backend, at_rest: AtRest = AtRest.SEALED, memory: int = _MEMORY) -> KeepSpec:
        """Of a machine that the operator owns."""
        evidence = EvidenceKind.TPM if backend is Backend.QEMU_VTPM else None
        certificate = self._home.operator.certificate.read_text()
        owner = pinned_principal(certificate, [KeepRole.OWNER])
        limits = msgspec.structs.replace(DEFAULT_LIMITS, memory=memory << 20)
        return new_spec(principals=[owner], limits=limits, backend=backend, at_rest=at_rest, evidence=evidence)


def _endpoint(keep: Keep) -> str:
    if keep.endpoint is None:
        raise RuntimeError("a keep that is ready has no endpoint")
    return keep.endpoint


def _process(keep: Keep) -> int:
    if keep.pid is None:
        raise RuntimeError("a keep that is ready has no process")
    return keep.pid
