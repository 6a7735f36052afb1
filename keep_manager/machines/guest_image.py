"""The guest image that machines start from: is it what its manifest says, and open files of it for a starting keep."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from keep_image.errors import ImageFileError
from keep_image.manifest import INITRAMFS, KERNEL, Manifest, load_manifest
from keep_manager.errors import GuestImageError
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD


@dataclass(frozen=True, slots=True)
class GuestImage:
    """An image whose files are those of its manifest."""

    folder: Path
    manifest: Manifest


class GuestImages:
    """Reads the image of a folder, and its files again only when they are others than before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}

    def look(self) -> GuestImage:
        """The image as it is now. Raises `GuestImageError`, which names the remedy."""
        image, files = self.open()
        for descriptor in files.values():
            os.close(descriptor)
        return image

    def open(self) -> tuple[GuestImage, dict[str, int]]:
        """The image, and descriptors of its files by their names in the hand-over, for the caller to close.

        What is handed on was looked at: a keep starts from files, not from names that may change meanwhile. Raises
        `GuestImageError`.
        """
        try:
            manifest = load_manifest(self._folder)
        except ImageFileError as error:
            raise GuestImageError(str(error)) from None
        expected = {KERNEL_FD: (KERNEL, manifest.kernel), INITRAMFS_FD: (INITRAMFS, manifest.initramfs)}
        with contextlib.ExitStack() as stack:
            files: dict[str, int] = {}
            for name, (file_name, file) in expected.items():
                files[name] = _open(self._folder / file_name)
                stack.callback(os.close, files[name])
                if (found := self._digest(file_name, files[name])) != file.sha256:
                    raise GuestImageError(
                        f"{self._folder / file_name} has the SHA-256 {found[:16]}…, its image was built with "
                        f"{file.sha256[:16]}…: it was changed; run `keep-manager image build`"
                    )
            stack.pop_all()
        return GuestImage(self._folder, manifest), files

    def _digest(self, name: str, descriptor: int) -> str:
        status = os.fstat(descriptor)
        version = status.st_ino, status.st_size, status.st_mtime_ns
        known, digest = self._digests.get(name, (None, ""))
        if known != version:
            with open(descriptor, "rb", closefd=False) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._digests[name] = version, digest
        return digest


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise GuestImageError(f"{path}: {error.strerror}; run `keep-manager image build`") from None
