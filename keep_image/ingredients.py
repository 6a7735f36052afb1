"""All that an image is made of, read: pinned packages, and wasmkeep's own code that runs in the guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keep_protocol
from keep_image.archives import Member, read_package, read_wheel
from keep_image.errors import PackageError
from keep_image.package_store import PackageStore
from keep_image.pins import PackageUse, Pins

GUEST_PACKAGES: Final = ("app_loader", "keep_guest", "keep_protocol")
"""Our own packages that are in the image."""

_CODE: Final = Path(keep_protocol.__file__).parents[1]


@dataclass(frozen=True)
class Ingredients:
    """Files by their paths in the packages they come from."""

    kernel: Mapping[str, Member]
    """Of the kernel's package: the kernel itself and its modules."""
    userland: Mapping[str, Member]
    """Of Debian's other packages for the guest, together."""
    tools: Mapping[str, Member]
    """Of packages that only run while the image is built."""
    wheels: Mapping[str, Member]
    """Of all wheels together."""
    own: Mapping[str, bytes]
    """Our own sources, by their path below the folder of all packages."""


def gather(pins: Pins, store: PackageStore, *, code: Path = _CODE) -> Ingredients:
    """Fetch and read everything. Raises `PackageError`."""
    userland: dict[str, Member] = {}
    tools: dict[str, Member] = {}
    for package in pins.userland:
        target = userland if package.use is PackageUse.GUEST else tools
        target.update(read_package(store.package(package), _is_no_document))
    wheels: dict[str, Member] = {}
    for wheel in pins.wheels:
        wheels.update(read_wheel(store.wheel(wheel, pins)))
    kernel = read_package(store.package(pins.kernel), lambda path: path.startswith("boot/vmlinuz-") or ".ko" in path)
    return Ingredients(kernel, userland, tools, wheels, own_sources(code))


def own_sources(code: Path = _CODE) -> dict[str, bytes]:
    """The sources of our packages that are in the image. Raises `PackageError` where they are not installed."""
    sources: dict[str, bytes] = {}
    for package in GUEST_PACKAGES:
        files = sorted((code / package).rglob("*.py"))
        if not files:
            raise PackageError(f"the package {package} is not installed beside keep_protocol, in {code}")
        sources.update((str(path.relative_to(code)), path.read_bytes()) for path in files)
    return sources


def _is_no_document(path: str) -> bool:
    return not path.startswith("usr/share/")
