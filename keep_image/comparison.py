"""Explains how two images differ, and what that changes in what hardware says of them."""

from __future__ import annotations

import msgspec

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


def _of_tables(first: dict[str, str], second: dict[str, str]) -> list[Difference]:
    return [
        Difference(name, first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
