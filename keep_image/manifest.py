"""What an image is: its files, what is in them, and what they were made of; `image.json` in the image's folder."""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from keep_image.errors import ImageFileError
from keep_image.package_store import sha256_of

MANIFEST: Final = "image.json"
KERNEL: Final = "vmlinuz"
INITRAMFS: Final = "initramfs.cpio.lz4"
SBOM: Final = "sbom.spdx.json"
MANIFEST_VERSION: Final = 1

COMMAND_LINE: Final = "console=ttyS0 loglevel=4 panic=-1 reboot=t no_timer_check"
"""What the kernel is started with: it is measured, so a host that adds a word to it gets another measurement.
A panic ends the machine at once, which its monitor sees. A kernel that does not know that it is a guest, as under TCG,
counts the timer's ticks for a moment and panics when the host had other things to do; KVM's guests skip that check."""

_MAX_MANIFEST: Final = 4 * 1024 * 1024
_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Origin(StrEnum):
    """Where a component comes from."""

    DEBIAN = "debian"
    PYPI = "pypi"
    WASMKEEP = "wasmkeep"
    BUILT = "built"
    """Compiled on this machine from another component."""
    GIVEN = "given"
    """A file that whoever built the image named."""


class ImageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the image's folder."""

    name: str
    size: int
    sha256: _Sha256


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that files of the image were taken from."""

    name: str
    version: str
    origin: Origin
    sha256: _Sha256
    """Of the package; for wasmkeep, over its sources."""


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the initramfs."""

    path: str
    mode: int
    size: int
    sha256: _Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image. Nothing here says when, where or by whom it was built."""

    version: int
    wasmkeep: str
    python: str
    kernel_release: str
    command_line: str
    kernel: ImageFile
    initramfs: ImageFile
    unpacked: ImageFile
    """The initramfs before it was compressed; there is no such file."""
    components: tuple[Component, ...]
    contents: tuple[Content, ...]
    kernel_tools: tuple[str, ...] = ()
    """What compiled the kernel, where it is our own."""

    @property
    def size(self) -> int:
        """Bytes of kernel and initramfs together."""
        return self.kernel.size + self.initramfs.size


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def default_folder() -> Path:
    """Where an image is when nobody says: `$XDG_DATA_HOME/wasmkeep/image`."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "wasmkeep" / "image"


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the image in `folder`. Raises `ImageFileError`."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise ImageFileError(f"{path} has more than {_MAX_MANIFEST} bytes")
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ImageFileError(
            f"there is no image in {folder}: {path.name}: {error.strerror}; make one with `keep-manager image build`"
        ) from None
    except msgspec.DecodeError as error:
        raise ImageFileError(f"{path} is not usable: {error}") from None
    if manifest.version != MANIFEST_VERSION:
        raise ImageFileError(f"{path} has version {manifest.version}, not {MANIFEST_VERSION}: build the image anew")
    if (manifest.kernel.name, manifest.initramfs.name) != (KERNEL, INITRAMFS):
        raise ImageFileError(f"{path} names other files than {KERNEL} and {INITRAMFS}")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises `ImageFileError` when kernel or initramfs are not what the manifest says."""
    for file in (manifest.kernel, manifest.initramfs):
        path = folder / file.name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ImageFileError(f"{path} cannot be read: {error.strerror}") from None
        if found != file.sha256:
            raise ImageFileError(
                f"{path} has the SHA-256 {found}, its image was built with {file.sha256}: it was changed; build it anew"
            )


def described(name: str, content: bytes) -> ImageFile:
    return ImageFile(name, len(content), hashlib.sha256(content).hexdigest())
