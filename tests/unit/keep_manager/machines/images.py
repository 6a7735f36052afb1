"""Guest images for tests: a manifest with two small files, which no machine could start from."""

from __future__ import annotations

from pathlib import Path

from keep_image.manifest import (
    COMMAND_LINE,
    INITRAMFS,
    KERNEL,
    MANIFEST,
    MANIFEST_VERSION,
    Manifest,
    described,
    encode_manifest,
)


def write_image(folder: Path, *, kernel: bytes = b"kernel", initramfs: bytes = b"initramfs") -> Path:
    """The folder with an image in it."""
    folder.mkdir(exist_ok=True)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        wasmkeep="0",
        python="3.11",
        kernel_release="test",
        command_line=COMMAND_LINE,
        kernel=described(KERNEL, kernel),
        initramfs=described(INITRAMFS, initramfs),
        unpacked=described("initramfs.cpio", initramfs),
        components=(),
        contents=(),
    )
    (folder / KERNEL).write_bytes(kernel)
    (folder / INITRAMFS).write_bytes(initramfs)
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder
