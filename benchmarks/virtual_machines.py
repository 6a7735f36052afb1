"""Keeps that are virtual machines: from nothing to verified, memory, upload, and what of it is the machine's own."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.bare_machine import first_userspace_output, raw_transfers
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.processes import settled_resident_memory, tree
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
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import Keep
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, canonical, spec_digest
from keep_protocol.states import Backend, FileArea, KeepRole
from testers.keepctl.attestation.image_policy import ExpectedImage, PolicyOfAnImage
from testers.keepctl.attestation.observation import observe

_COLD = Target(Comparison.RATIO, 2.5)
_MEASURED = Target(Comparison.RATIO, 4)
_RESIDENT = Target(Comparison.VALUE, 340)
_RESIDENT_OWN = Target(Comparison.VALUE, 250)
_UPLOAD = Target(Comparison.SPEED, 0.7)
_IMAGE = Target(Comparison.VALUE, 40)

_MEMORY = 320
"""MiB of each machine."""
_UPLOADED = 8 * 1024 * 1024
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
    rows: list[Row | Omission] = [*_rows(session, stock, rounds), *_rows_of_any_kernel(session, stock, rounds)]
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
        cold, measured, bare = interleaved(
            rounds, owner.cold_keep, owner.measured_keep, partial(first_userspace_output, image.folder, _MEMORY)
        )
        resident = owner.resident_memory()
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
        Row(f"guest image: initramfs and {image.kernel}", "–", Sample("MB", (size,)), None, _IMAGE),
    ]


def _rows_of_any_kernel(session: Session, image: _Image, rounds: int) -> list[Row]:
    with session.deployment(image.folder) as deployment, ManagerClient.from_home(deployment.home) as manager:
        uploads = _Owner(Home(deployment.home), manager, image.folder).uploads(rounds)
    raw = raw_transfers(image.folder, _MEMORY, _UPLOADED, rounds)
    return [
        Row(
            f"{_UPLOADED >> 20} MiB upload to a `qemu` keep (SDK, mutual TLS, digest checked)",
            "as many raw bytes through the same kind of channel, dropped by the guest",
            Sample.of("s", uploads),
            Sample.of("s", raw),
            _UPLOAD,
        )
    ]


class _Owner:
    """Creates machines in a deployment, and owns them."""

    def __init__(self, home: Home, manager: ManagerClient, image: Path) -> None:
        self._home = home
        self._manager = manager
        self._image = ExpectedImage(folder=image, memory=_MEMORY << 20, allow_software_tpm=True)
        self._limits = msgspec.structs.replace(DEFAULT_LIMITS, memory=_MEMORY << 20)

    def cold_keep(self) -> float:
        """Seconds to the first verified status of a new machine."""
        started = time.perf_counter()
        keep = self._manager.create_keep(self._spec(Backend.QEMU))
        with connect_keep(self._manager, keep.id) as connection:
            connection.verify()
            elapsed = time.perf_counter() - started
        self._manager.remove_keep(keep.id)
        return elapsed

    def measured_keep(self) -> float:
        """Seconds until a new machine has proved, by a quote on a connection, that it booted the image."""
        spec = self._spec(Backend.QEMU_VTPM)
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
        keep = self._manager.create_keep(self._spec(Backend.QEMU))
        if keep.pid is None:
            raise RuntimeError("a keep that is ready has no process")
        resident = settled_resident_memory(partial(tree, keep.pid))
        self._manager.remove_keep(keep.id)
        return resident

    def uploads(self, rounds: int) -> list[float]:
        """Seconds of so many uploads to a machine."""
        keep = self._manager.create_keep(self._spec(Backend.QEMU))
        taken = []
        with connect_keep(self._manager, keep.id) as connection:
            for _ in range(rounds + 1):
                content = os.urandom(_UPLOADED)
                started = time.perf_counter()
                connection.put_file(FileArea.INPUT, "upload", content)
                taken.append(time.perf_counter() - started)
        self._manager.remove_keep(keep.id)
        # The first one finds code that was never translated.
        return taken[1:]

    def _spec(self, backend: Backend) -> KeepSpec:
        evidence = EvidenceKind.TPM if backend is Backend.QEMU_VTPM else None
        certificate = self._home.operator.certificate.read_text()
        owner = pinned_principal(certificate, [KeepRole.OWNER])
        return new_spec(principals=[owner], limits=self._limits, backend=backend, evidence=evidence)


def _endpoint(keep: Keep) -> str:
    if keep.endpoint is None:
        raise RuntimeError("a keep that is ready has no endpoint")
    return keep.endpoint
