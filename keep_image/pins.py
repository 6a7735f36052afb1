"""The packages that images are made of, each by name, version and SHA-256: `pins.toml`, the image's lock file."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from keep_image.errors import PinError

PINS: Final = Path(__file__).with_name("pins.toml")

_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Path: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^pool/[A-Za-z0-9.+_~/-]+\.deb$")]


class PackageUse(StrEnum):
    """What a package is needed for."""

    GUEST = "guest"
    """Some of its files are in the image."""
    BUILD = "build"
    """It runs while an image is built, and is not in it."""
    KERNEL = "kernel"
    """The kernel and its modules."""
    SOURCE = "source"
    """What a kernel of our own is compiled from."""


class DebianPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One binary package of Debian's for amd64, or for all machines."""

    name: str
    version: str
    use: PackageUse
    path: _Path
    """Below the root of an archive, as `Filename` in its index."""
    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]
    sha256: _Sha256

    @property
    def file_name(self) -> str:
        return self.path.rpartition("/")[2]


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the Python package index, also in requirements.lock."""

    name: str
    version: str
    file_name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+\.whl$")]
    sha256: _Sha256


class Pins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that an image is made of besides wasmkeep itself."""

    python: Annotated[str, msgspec.Meta(pattern=r"^3\.\d+$")]
    """The guest's Python, as major.minor."""
    kernel_release: str
    """`uname -r` of the pinned kernel."""
    packages: tuple[DebianPackage, ...]
    wheels: tuple[Wheel, ...]

    def __post_init__(self) -> None:
        names = [*(package.name for package in self.packages), *(wheel.name for wheel in self.wheels)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"`{twice[0]}` is pinned twice")
        for use in (PackageUse.KERNEL, PackageUse.SOURCE):
            if sum(package.use is use for package in self.packages) != 1:
                raise ValueError(f"exactly one package has the use `{use}`")

    @property
    def kernel(self) -> DebianPackage:
        return next(package for package in self.packages if package.use is PackageUse.KERNEL)

    @property
    def kernel_source(self) -> DebianPackage:
        return next(package for package in self.packages if package.use is PackageUse.SOURCE)

    @property
    def userland(self) -> tuple[DebianPackage, ...]:
        """The packages that have nothing to do with the kernel."""
        return tuple(package for package in self.packages if package.use in {PackageUse.GUEST, PackageUse.BUILD})


def parse_pins(text: str) -> Pins:
    """The pins in TOML. Raises `PinError`, which names the field."""
    try:
        return msgspec.convert(tomllib.loads(text), Pins)
    except tomllib.TOMLDecodeError as error:
        raise PinError(f"the pins are not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise PinError(f"the pins are not usable: {error}") from None


def load_pins(path: Path = PINS) -> Pins:
    """The pins in the file `path`. Raises `PinError`."""
    try:
        return parse_pins(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PinError(f"{path} cannot be read: {error}") from None
    except PinError as error:
        raise PinError(f"{path}: {error}") from None
