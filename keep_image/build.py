"""Builds a guest image: the kernel as it is, the initramfs from pinned packages and our own code, reproducibly."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from keep_image.contents import entries_of, kernel_of
from keep_image.errors import BuildError, ImageError
from keep_image.ingredients import gather
from keep_image.manifest import (
    COMMAND_LINE,
    INITRAMFS,
    KERNEL,
    MANIFEST,
    MANIFEST_VERSION,
    SBOM,
    Component,
    Content,
    Manifest,
    Origin,
    described,
    encode_manifest,
)
from keep_image.newc import Entry, write_archive
from keep_image.own_kernel import CONFIG, KernelFacts, OwnKernel
from keep_image.package_store import PackageStore
from keep_image.pins import PackageUse, Pins
from keep_image.sbom import encode_sbom
from keep_image.toolchain import Toolchain
from keep_protocol import __version__


def build_image(output: Path, pins: Pins, store: PackageStore, *, kernel: Path | OwnKernel | None = None) -> Manifest:
    """Write an image into the folder `output`, whose manifest comes last; another image there is replaced.

    `kernel` is another than Debian's, with everything built in: one that was compiled by our options, or any file.
    Raises `ImageError`.
    """
    ingredients = gather(pins, store)
    own = kernel.facts if isinstance(kernel, OwnKernel) else None
    given = None if kernel is None else _read_kernel(kernel.path if isinstance(kernel, OwnKernel) else kernel)
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        toolchain = Toolchain(Path(name), [*ingredients.userland.values(), *ingredients.tools.values()], pins.python)
        entries = entries_of(ingredients, pins, toolchain, modules=given is None)
        unpacked = write_archive(entries)
        initramfs = toolchain.compress(unpacked)
    kernel_content = kernel_of(ingredients, pins) if given is None else given
    manifest = Manifest(
        version=MANIFEST_VERSION,
        wasmkeep=__version__,
        python=pins.python,
        kernel_release=own.release if own is not None else pins.kernel_release if given is None else "given",
        command_line=COMMAND_LINE,
        kernel=described(KERNEL, kernel_content),
        initramfs=described(INITRAMFS, initramfs),
        unpacked=described(INITRAMFS.removesuffix(".lz4"), unpacked),
        components=(
            _own_sources(ingredients.own),
            *_kernel_components(pins, given, own),
            *(
                Component(package.name, package.version, Origin.DEBIAN, package.sha256)
                for package in pins.packages
                if package.use is PackageUse.GUEST
            ),
            *(Component(wheel.name, wheel.version, Origin.PYPI, wheel.sha256) for wheel in pins.wheels),
        ),
        contents=_contents(entries),
        kernel_tools=() if own is None else own.tools,
    )
    _write(
        output,
        {
            KERNEL: kernel_content,
            INITRAMFS: initramfs,
            SBOM: encode_sbom(manifest),
            MANIFEST: encode_manifest(manifest),
        },
    )
    return manifest


def _read_kernel(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BuildError(f"the kernel {path} cannot be read: {error.strerror}") from None
    if content[0x202:0x206] != b"HdrS":
        raise BuildError(f"{path} is no kernel for x86 (bzImage)")
    return content


def _own_sources(own: Mapping[str, bytes]) -> Component:
    sources = hashlib.sha256()
    for path, content in sorted(own.items()):
        sources.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
    return Component("wasmkeep", __version__, Origin.WASMKEEP, sources.hexdigest())


def _kernel_components(pins: Pins, kernel: bytes | None, facts: KernelFacts | None) -> tuple[Component, ...]:
    if kernel is None:
        package = pins.kernel
        return (Component(package.name, package.version, Origin.DEBIAN, package.sha256),)
    digest = hashlib.sha256(kernel).hexdigest()
    if facts is None:
        return (Component("linux", "given", Origin.GIVEN, digest),)
    source = pins.kernel_source
    return (
        Component("linux", facts.release, Origin.BUILT, digest),
        Component(source.name, source.version, Origin.DEBIAN, source.sha256),
        Component(CONFIG.name, __version__, Origin.WASMKEEP, facts.config_sha256),
    )


def _contents(entries: Iterable[Entry]) -> tuple[Content, ...]:
    return tuple(
        Content(entry.path, entry.mode, len(entry.content), hashlib.sha256(entry.content).hexdigest())
        for entry in sorted(entries, key=lambda entry: entry.path)
    )


def _write(output: Path, files: Mapping[str, bytes]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        # A manifest never stands beside files that are not its own.
        (output / MANIFEST).unlink(missing_ok=True)
        for name, content in files.items():
            new = output / f".{name}.new"
            new.write_bytes(content)
            new.chmod(0o644)
            new.replace(output / name)
    except OSError as error:
        raise ImageError(f"the image cannot be written to {output}: {error}") from None
