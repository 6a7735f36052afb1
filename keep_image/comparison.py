"""Explains how two images, or two measurements, differ, and what that changes in what hardware says."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from keep_image.errors import MeasurementError
from keep_image.manifest import Manifest


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not the same in both."""

    what: str
    before: str | None
    """None: it is not in the first."""
    after: str | None


_INITRAMFS_MEASURED = "PCR 9, SNP launch digest, RTMR2, Nitro PCR 0 and 1"
_KERNEL_MEASURED = "PCR 4, SNP launch digest, RTMR1, Nitro PCR 0 and 1"


def differences(first: Manifest, second: Manifest) -> list[Difference]:
    """What differs, from what causes it to what it causes: packages, files in the initramfs, the image's files."""
    found = _of_tables(
        {f"package {each.name}": f"{each.version} (SHA-256 {each.sha256})" for each in first.components},
        {f"package {each.name}": f"{each.version} (SHA-256 {each.sha256})" for each in second.components},
    )
    found += _of_tables(
        {f"/{each.path}": f"{each.mode:o} {each.size} {each.sha256}" for each in first.contents},
        {f"/{each.path}": f"{each.mode:o} {each.size} {each.sha256}" for each in second.contents},
    )
    found += _of_tables(
        {"command line": first.command_line, "kernel": first.kernel.sha256, "initramfs": first.initramfs.sha256},
        {"command line": second.command_line, "kernel": second.kernel.sha256, "initramfs": second.initramfs.sha256},
    )
    return found


def changed_measurements(first: Manifest, second: Manifest) -> list[str]:
    """Which values of evidence change with these differences; none when the same policy accepts both."""
    changed = []
    if first.kernel.sha256 != second.kernel.sha256:
        changed.append(f"the kernel: {_KERNEL_MEASURED}")
    if first.initramfs.sha256 != second.initramfs.sha256:
        changed.append(f"the initramfs: {_INITRAMFS_MEASURED}")
    if first.command_line != second.command_line:
        changed.append(f"the command line: {_INITRAMFS_MEASURED}")
    return changed


_MEANINGS: Final = {
    "tpm.pcrs.sha256.4": "the kernel, or what QEMU before version 10 writes into it for another memory",
    "tpm.pcrs.sha256.9": "the kernel's command line or the initramfs",
    "tpm.pcrs.sha256.11": "the spec",
    "snp.measurements": "firmware, kernel, initramfs, command line, or number or model of vCPUs",
    "snp.host_data": "the spec",
    "tdx.mr_td": "the firmware",
    "tdx.rtmr1": "the kernel, or what QEMU before version 10 writes into it for another memory",
    "tdx.rtmr2": "the kernel's command line or the initramfs",
    "tdx.mr_config_id": "the spec",
    "nitro.pcrs.0": "kernel, initramfs or command line",
    "nitro.pcrs.1": "kernel, initramfs or command line",
}


def read_measurement(path: Path) -> dict[str, str]:
    """The values that `image measure` wrote, by their dotted names. Raises `MeasurementError`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MeasurementError(f"the measurement {path} cannot be read: {error}") from None
    return dict(_flattened(document, ""))


def measurement_differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[Difference]:
    """Which values differ, each with what it stands for."""
    return [
        msgspec.structs.replace(
            each, what=f"{each.what} ({_MEANINGS[each.what]})" if each.what in _MEANINGS else each.what
        )
        for each in _of_tables(dict(first), dict(second))
    ]


def _flattened(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{before}{key}.")
        elif isinstance(value, list):
            yield f"{before}{key}", ", ".join(map(str, value))


def _of_tables(first: dict[str, str], second: dict[str, str]) -> list[Difference]:
    return [
        Difference(name, first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
