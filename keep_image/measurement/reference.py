"""Turns an image and the shape of a machine into the reference values that a client's policy compares evidence with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from keep_image.errors import MeasurementError
from keep_image.manifest import INITRAMFS, KERNEL, check_files, load_manifest
from keep_image.measurement import nitro, snp, tdx, tpm
from keep_image.measurement.direct_boot import DirectBoot

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")


class MeasuredBackend(StrEnum):
    """A way to run the image that proves what runs."""

    VTPM = "qemu+vtpm"
    SNP = "snp"
    TDX = "tdx"
    NITRO = "nitro"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The machine that an image is started in, as far as evidence depends on it."""

    backend: MeasuredBackend
    memory: int
    """Bytes."""
    vcpus: int = 1
    cpu_model: str = snp.DEFAULT_CPU_MODEL
    firmware: Path | None = None
    """Needed for `snp` and `tdx`, whose first measurement is the firmware's."""
    command_line: str | None = None
    """None: the image's own."""
    qemu_version: tuple[int, int] | None = None
    spec_digest: str | None = None
    """SHA-256 in hex of the spec that the machine is launched for."""

    def __post_init__(self) -> None:
        if self.spec_digest is not None and not _DIGEST.fullmatch(self.spec_digest):
            raise MeasurementError(f"{self.spec_digest!r} is no SHA-256 in lower-case hex")


def parse_qemu_version(text: str) -> tuple[int, int]:
    """The version in `7.2` or `7.2.22`. Raises `MeasurementError`."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise MeasurementError(f"{text!r} is no version of QEMU's, such as 7.2 or 10.0.2")
    return int(found[1]), int(found[2])


def reference_values(folder: Path, shape: Shape) -> dict[str, dict[str, Any]]:
    """One table of a policy, by its kind of evidence: what evidence of the image in `folder` will say in that machine.

    Raises `ImageError`.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    boot = DirectBoot(
        kernel=(folder / KERNEL).read_bytes(),
        initrd=(folder / INITRAMFS).read_bytes(),
        command_line=manifest.command_line if shape.command_line is None else shape.command_line,
        memory=shape.memory,
        qemu_version=shape.qemu_version,
    )
    match shape.backend:
        case MeasuredBackend.VTPM:
            return {"tpm": {"pcrs": {"sha256": _hex_lists(tpm.predict_pcrs(boot, shape.spec_digest))}}}
        case MeasuredBackend.SNP:
            return {"snp": _snp(boot, shape)}
        case MeasuredBackend.TDX:
            return {"tdx": _tdx(boot, shape)}
        case MeasuredBackend.NITRO:
            pcrs = nitro.predict_pcrs(boot.kernel, boot.initrd, boot.command_line, shape.spec_digest)
            return {"nitro": {"pcrs": {str(number): [value.hex()] for number, value in pcrs.items()}}}


def _snp(boot: DirectBoot, shape: Shape) -> dict[str, Any]:
    digest = snp.launch_digest(
        _firmware(shape), boot.kernel, boot.initrd, boot.command_line, vcpus=shape.vcpus, cpu_model=shape.cpu_model
    )
    table: dict[str, Any] = {"measurements": [digest.hex()]}
    if shape.spec_digest is not None:
        table["host_data"] = [shape.spec_digest]
    return table


def _tdx(boot: DirectBoot, shape: Shape) -> dict[str, Any]:
    rtmrs = tdx.predict_rtmrs(boot)
    table: dict[str, Any] = {
        "mr_td": [tdx.predict_mrtd(_firmware(shape)).hex()],
        "rtmr0": ["any"],
        **{f"rtmr{number}": [value.hex() for value in values] for number, values in rtmrs.items()},
        "rtmr3": ["00" * 48],
    }
    if shape.spec_digest is not None:
        table["mr_config_id"] = [shape.spec_digest.ljust(96, "0")]
    return table


def _firmware(shape: Shape) -> bytes:
    if shape.firmware is None:
        raise MeasurementError(f"--firmware is needed for {shape.backend}: it is the first thing that is measured")
    try:
        return shape.firmware.read_bytes()
    except OSError as error:
        raise MeasurementError(f"the firmware {shape.firmware} cannot be read: {error.strerror}") from None


def _hex_lists(registers: Mapping[int, list[bytes]]) -> dict[str, list[str]]:
    return {str(number): [value.hex() for value in values] for number, values in registers.items()}
