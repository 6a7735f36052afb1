"""Keeps that are virtual machines: from nothing to verified, memory, upload, and what of it is the machine's own."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.bare_machine import first_userspace_output, raw_transfers
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.processes import resident_memory, tree
from benchmarks.session import Session
from keep_attestation.ratls.peer import ExpectedKeep
from keep_client import Home, ManagerClient, connect_keep, new_spec, pinned_principal
from keep_image.build import build_image
from keep_image.errors import PackageError
from keep_image.manifest import load_manifest
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
_UPLOAD = Target(Comparison.SPEED, 0.7)
_IMAGE = Target(Comparison.VALUE, 40)

_MEMORY = 320
"""MiB of each machine."""
_UPLOADED = 8 * 1024 * 1024
_MOST_ROUNDS = 5
"""A translated machine takes seconds to start."""


def measure(session: Session) -> list[Row | Omission]:
    """All of it by QEMU's translator or by KVM, as the host has it; Debian's own kernel."""
    if missing := [name for name in ("qemu-system-x86_64", "swtpm_setup") if shutil.which(name) is None]:
        return [Omission("keeps that are virtual machines", f"{', '.join(missing)}: not installed")]
    image = session.folder / "image"
    try:
        build_image(image, load_pins(), PackageStore(default_cache()))
    except PackageError as error:
        return [Omission("keeps that are virtual machines", str(error))]
    rounds = 1 if session.quick else min(session.rounds, _MOST_ROUNDS)
    with session.deployment(image) as deployment, ManagerClient.from_home(deployment.home) as manager:
        owner = _Owner(Home(deployment.home), manager, image)
        cold, measured, bare = interleaved(
            rounds, owner.cold_keep, owner.measured_keep, partial(first_userspace_output, image, _MEMORY)
        )
        resident, uploads = owner.memory_and_uploads(rounds)
    raw = raw_transfers(image, _MEMORY, _UPLOADED, rounds)
    size = load_manifest(image).size / 1e6
    return [
        Row(
            "create a cold `qemu` keep → first verified status (SDK)",
            "QEMU with the same kernel, devices and processor → first output of a program of 150 bytes as PID 1",
            Sample("s", cold),
            Sample("s", bare),
            _COLD,
        ),
        Row(
            "create a cold `qemu+vtpm` keep → its quote accepted against the image",
            "create a cold `qemu` keep → first verified status",
            Sample("s", measured),
            Sample("s", cold),
            _MEASURED,
        ),
        Row(
            f"resident memory of an idle `qemu` keep of {_MEMORY} MiB, stock kernel",
            "– (PSS of QEMU and the keep-loader)",
            Sample.of("MB", resident),
            None,
            _RESIDENT,
        ),
        Row(
            f"{_UPLOADED >> 20} MiB upload to a `qemu` keep (SDK, mutual TLS, digest checked)",
            "as many raw bytes through the same kind of channel, dropped by the guest",
            Sample.of("s", uploads),
            Sample.of("s", raw),
            _UPLOAD,
        ),
        Row("guest image: kernel and initramfs", "–", Sample("MB", (size,)), None, _IMAGE),
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

    def memory_and_uploads(self, rounds: int) -> tuple[list[float], list[float]]:
        """MB that an idle machine holds, and seconds of so many uploads to it."""
        keep = self._manager.create_keep(self._spec(Backend.QEMU))
        if keep.pid is None:
            raise RuntimeError("a keep that is ready has no process")
        resident, uploads = [resident_memory(tree(keep.pid))], []
        with connect_keep(self._manager, keep.id) as connection:
            for _ in range(rounds + 1):
                content = os.urandom(_UPLOADED)
                started = time.perf_counter()
                connection.put_file(FileArea.INPUT, "upload", content)
                uploads.append(time.perf_counter() - started)
        self._manager.remove_keep(keep.id)
        # The first one finds code that was never translated.
        return resident, uploads[1:]

    def _spec(self, backend: Backend) -> KeepSpec:
        evidence = EvidenceKind.TPM if backend is Backend.QEMU_VTPM else None
        certificate = self._home.operator.certificate.read_text()
        owner = pinned_principal(certificate, [KeepRole.OWNER])
        return new_spec(principals=[owner], limits=self._limits, backend=backend, evidence=evidence)


def _endpoint(keep: Keep) -> str:
    if keep.endpoint is None:
        raise RuntimeError("a keep that is ready has no endpoint")
    return keep.endpoint
