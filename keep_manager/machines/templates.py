"""Templates of machines: which there are, whether they may be used, and their memory for keeps that are cloned."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from keep_image.manifest import Manifest, default_folder
from keep_loader.machine.template import FrozenMachine, program_identity
from keep_manager.errors import TemplateError
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.template_files import (
    MANIFEST,
    MEMORY,
    STATE,
    TemplateKey,
    TemplateManifest,
    load_sealed,
    read_manifest,
    remove_template,
    write_template,
)
from keep_protocol.machine import Accelerator

FOLDER: Final = "templates"
"""In the folder of the image."""
_CPUINFO: Final = Path("/proc/cpuinfo")
_SAME_PROCESSOR: Final = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")

_Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class OpenTemplate:
    """A template for a keep that starts; the caller closes the descriptors."""

    memory: int
    state: int
    program: str
    """The file of QEMU that was found to be the template's; see `keep_loader.machine.template.program_identity`."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    signature: _Signature
    manifest: TemplateManifest
    memory: int
    state: int

    def close(self) -> None:
        os.close(self.memory)
        os.close(self.state)


class Templates:
    """The templates of one image. One that is used is held in memory, once for all clones."""

    def __init__(self, settings: MachineSettings) -> None:
        self._qemu = settings.qemu
        self._folder = (settings.image or default_folder()) / FOLDER
        self._loaded: dict[str, _Loaded] = {}
        self._programs: dict[str, str] = {}
        self._loading = threading.Lock()

    def key(self, image: Manifest, accelerator: Accelerator, memory: int, processors: int) -> TemplateKey:
        """What a template of a machine with so many MiB depends on now. Raises `TemplateError`."""
        return TemplateKey(
            kernel=image.kernel.sha256,
            initramfs=image.initramfs.sha256,
            command_line=image.command_line,
            qemu=self._program(),
            accelerator=accelerator,
            processor=_processor() if accelerator is Accelerator.KVM else "",
            memory=memory,
            processors=processors,
        )

    def usable(self, image: Manifest, accelerator: Accelerator) -> tuple[str, ...]:
        """The shapes that there are templates for, in words; not looked at closer than by their manifests."""
        return tuple(self._usable(image, accelerator))

    def open(self, key: TemplateKey) -> OpenTemplate:
        """The template that has this key. Raises `TemplateError`, which says why there is none."""
        with self._loading:
            return self._open(key)

    def write(self, key: TemplateKey, frozen: FrozenMachine) -> Path:
        """Keep a new template, in the place of one of the same shape; its folder. Raises `TemplateError`."""
        try:
            write_template(self._folder, key, frozen)
        except OSError as error:
            raise TemplateError(f"the template cannot be written: {error}") from None
        return self._folder / key.folder

    def remove(self) -> list[str]:
        """Remove all; the names of their folders. Keeps that are clones go on. Raises `TemplateError`."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
            for name in names:
                remove_template(self._folder, name)
            shutil.rmtree(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TemplateError(f"the templates cannot be removed: {error}") from None
        return names

    def close(self) -> None:
        """Let go of what is held in memory; keeps that use it have descriptors of their own."""
        for name in tuple(self._loaded):
            self._forget(name)

    def _open(self, key: TemplateKey) -> OpenTemplate:
        folder = self._folder / key.folder
        remedy = f"`keep-manager image template --memory {key.memory}M --vcpus {key.processors}` makes one"
        try:
            signature = _signature(folder)
            loaded = self._loaded.get(key.folder)
            if loaded is None or loaded.signature != signature:
                self._forget(key.folder)
                manifest = read_manifest(folder)
                _check(manifest.key, key, remedy)
                loaded = self._loaded[key.folder] = _load(folder, signature, manifest)
            _check(loaded.manifest.key, key, remedy)
        except FileNotFoundError:
            self._forget(key.folder)
            raise TemplateError(f"no-template: there is none for {key.shape}; {remedy}") from None
        except TemplateError:
            self._forget(key.folder)
            raise
        # Empty where QEMU was replaced since the key was made: that is no file's identity, so the keep boots.
        program = next((identity for identity, digest in self._programs.items() if digest == key.qemu), "")
        return OpenTemplate(os.dup(loaded.memory), os.dup(loaded.state), program)

    def _usable(self, image: Manifest, accelerator: Accelerator) -> Iterator[str]:
        try:
            folders = sorted(self._folder.iterdir())
        except OSError:
            return
        for folder in folders:
            with suppress(FileNotFoundError, NotADirectoryError, TemplateError):
                found = read_manifest(folder).key
                if found == self.key(image, accelerator, found.memory, found.processors):
                    yield found.shape

    def _program(self) -> str:
        try:
            identity = program_identity(self._qemu)
            if (digest := self._programs.get(identity)) is None:
                with self._qemu.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                # Replaced as a whole: whoever looks at the host and whoever starts a keep are threads of their own.
                self._programs = {identity: digest}
        except OSError as error:
            raise TemplateError(f"no-template: {self._qemu}: {error.strerror}") from None
        return digest

    def _forget(self, name: str) -> None:
        if (loaded := self._loaded.pop(name, None)) is not None:
            loaded.close()


def _check(found: TemplateKey, wanted: TemplateKey, remedy: str) -> None:
    if found == wanted:
        return
    if found == replace(wanted, kernel=found.kernel, initramfs=found.initramfs, command_line=found.command_line):
        other = "of another image"
    elif found == replace(wanted, qemu=found.qemu):
        other = "made by another QEMU"
    else:
        other = "of another kind of machine"
    raise TemplateError(f"template-outdated: that for {wanted.shape} is {other}; {remedy}")


def _load(folder: Path, signature: _Signature, manifest: TemplateManifest) -> _Loaded:
    memory = load_sealed(folder / MEMORY, manifest.memory_sha256)
    try:
        state = load_sealed(folder / STATE, manifest.state_sha256)
    except BaseException:
        os.close(memory)
        raise
    return _Loaded(signature, manifest, memory, state)


def _signature(folder: Path) -> _Signature:
    """Another one means that a file was changed. Raises `FileNotFoundError`."""
    found = ((folder / name).stat() for name in (MANIFEST, MEMORY, STATE))
    return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in found)


def _processor(cpuinfo: Path = _CPUINFO) -> str:
    """What a guest sees of the host's processor, as a digest: its state means nothing to another."""
    first = cpuinfo.read_text().partition("\n\n")[0].splitlines()
    told = [line for line in first if line.partition("\t")[0].partition(":")[0].strip() in _SAME_PROCESSOR]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
