"""What of all ingredients is in the image, and where."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keep_image.archives import Member
from keep_image.bytecode import compile_sources
from keep_image.errors import PackageError
from keep_image.ingredients import Ingredients
from keep_image.newc import Entry, character_device, file, folder, link
from keep_image.pins import Pins
from keep_image.toolchain import Toolchain

STANDARD_LIBRARY: Final = Path(__file__).with_name("standard_library.txt")
"""Files of Python's standard library that are in the image, by their paths below its folder: reviewed, and checked by
tests against what the guest's code imports."""

MODULE_GROUPS: Final = {
    "balloon": ("virtio_balloon",),
    "disk": ("virtio_blk",),
    "vsock": ("vmw_vsock_virtio_transport",),
    "snp": ("sev_guest",),
    "tdx": ("tdx_guest",),
    "nitro": ("nsm",),
}
"""Kernel modules by what they are loaded for."""

_LIBRARY: Final = "usr/lib/x86_64-linux-gnu"
_SHARED_LIBRARIES: Final = (
    "libc.so.6",
    "libcrypto.so.3",
    "libdl.so.2",
    "libexpat.so.1",
    "libffi.so.8",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libssl.so.3",
    "libz.so.1",
)
_LOADER: Final = "ld-linux-x86-64.so.2"
_CODE: Final = "usr/lib/wasmkeep"
_INIT: Final = """\
#!/usr/bin/python{python} -ISB
import sys
sys.path.append("/{code}")
from keep_guest.boot import main
main()
"""
_FOLDERS: Final = ("dev", "proc", "run", "sys", "tmp", "var/lib/keep")
_PASSWD: Final = b"root:x:0:0::/:/nonexistent\nkeep:x:1000:1000::/:/nonexistent\n"
_MODULES: Final = "usr/lib/modules"
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")


def kernel_of(ingredients: Ingredients, pins: Pins) -> bytes:
    """The kernel itself. Raises `PackageError`."""
    return _content(ingredients.kernel, f"boot/vmlinuz-{pins.kernel_release}", pins.kernel.name)


def entries_of(ingredients: Ingredients, pins: Pins, toolchain: Toolchain, *, modules: bool = True) -> list[Entry]:
    """The entries of the initramfs; without `modules` for a kernel that has them built in.

    Raises `PackageError` and `BuildError`.
    """
    return [
        *(folder(path) for path in _FOLDERS),
        # /dev is mounted by init, which has its standard streams before.
        character_device("dev/console", 5, 1),
        character_device("dev/null", 1, 3, 0o666),
        link("lib", "usr/lib"),
        link("lib64", "usr/lib64"),
        file("etc/passwd", _PASSWD),
        file("init", _INIT.format(python=pins.python, code=_CODE).encode(), 0o755),
        *_interpreter(ingredients, pins),
        *_code(ingredients, pins, toolchain),
        *(_kernel_modules(ingredients) if modules else ()),
    ]


def standard_library_files() -> tuple[str, ...]:
    """The reviewed list."""
    lines = STANDARD_LIBRARY.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def _interpreter(ingredients: Ingredients, pins: Pins) -> list[Entry]:
    binary = f"usr/bin/python{pins.python}"
    entries = [file(binary, _content(ingredients.userland, binary, "python"), 0o755)]
    for name in _SHARED_LIBRARIES:
        entries.append(file(f"{_LIBRARY}/{name}", _shared_library(ingredients, name), 0o755))
    entries.append(file(f"usr/lib64/{_LOADER}", _shared_library(ingredients, _LOADER), 0o755))
    return entries


def _code(ingredients: Ingredients, pins: Pins, toolchain: Toolchain) -> list[Entry]:
    library = f"usr/lib/python{pins.python}"
    sources: dict[str, bytes] = {}
    entries: list[Entry] = []
    for name in standard_library_files():
        path = f"{library}/{name}"
        content = _content(ingredients.userland, path, "Python's standard library")
        if name.endswith(".py"):
            sources[path] = content
        else:
            entries.append(file(path, content, 0o755))
    sources.update((f"{_CODE}/{path}", content) for path, content in ingredients.own.items())
    for path, member in ingredients.wheels.items():
        if path.endswith(".py") and not _is_unused(path):
            sources[f"{_CODE}/{path}"] = member.content
        elif path.endswith(".so"):
            entries.append(file(f"{_CODE}/{path}", member.content, 0o755))
    compiled = compile_sources(sources, toolchain)
    return [*entries, *(file(path, content) for path, content in compiled.items())]


def _is_unused(path: str) -> bool:
    """The app-loader has a binding of its own: of this package it needs the library, and that the package is one."""
    return path.startswith("wasmtime/") and path != "wasmtime/__init__.py"


def _kernel_modules(ingredients: Ingredients) -> list[Entry]:
    available = {
        Path(path).name.partition(".ko")[0].replace("-", "_"): member.content
        for path, member in ingredients.kernel.items()
        if ".ko" in Path(path).name
    }
    contents: dict[str, bytes] = {}
    groups = {
        group: list(dict.fromkeys(name for wanted in names for name in _with_dependencies(wanted, available, contents)))
        for group, names in MODULE_GROUPS.items()
    }
    listed = json.dumps({group: [f"{name}.ko" for name in names] for group, names in groups.items()}, sort_keys=True)
    return [
        file(f"{_MODULES}/groups.json", listed.encode()),
        *(file(f"{_MODULES}/{name}.ko", content) for name, content in contents.items()),
    ]


def _with_dependencies(name: str, available: Mapping[str, bytes], contents: dict[str, bytes]) -> list[str]:
    """The module after all that it depends on, which are added to `contents`. What is built in is no module."""
    if name not in available:
        return []
    if name not in contents:
        contents[name] = lzma.decompress(available[name])
    found = _DEPENDS.search(contents[name])
    needed = found.group(1).decode().split(",") if found is not None and found.group(1) else []
    before = [each for other in needed for each in _with_dependencies(other.replace("-", "_"), available, contents)]
    return [*before, name]


def _shared_library(ingredients: Ingredients, name: str) -> bytes:
    for base in ("lib/x86_64-linux-gnu", _LIBRARY):
        if f"{base}/{name}" in ingredients.userland:
            return _content(ingredients.userland, f"{base}/{name}", "a package")
    raise PackageError(f"no pinned package has the library {name}")


def _content(members: Mapping[str, Member], path: str, where: str) -> bytes:
    """A file's content, through symbolic links. Raises `PackageError`."""
    for _ in range(8):
        member = members.get(path)
        if member is None:
            raise PackageError(f"{where} has no file {path}: the pins and wasmkeep do not belong together")
        if not member.is_link:
            return member.content
        target = member.content.decode()
        path = target.removeprefix("/") if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"
    raise PackageError(f"{path} is a link that leads nowhere")
