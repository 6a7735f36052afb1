"""A template on disk: guest memory and device state with their digests, and copies of them that nobody can change."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from keep_loader.machine.template import FrozenMachine
from keep_manager.errors import TemplateError
from keep_protocol.machine import Accelerator
from keep_protocol.strict_json import decode_strictly

MANIFEST: Final = "template.json"
MEMORY: Final = "memory"
STATE: Final = "state"
MANIFEST_VERSION: Final = 1

_CHUNK: Final = 64 * 1024
_ZEROS: Final = bytes(_CHUNK)
_MAX_MANIFEST: Final = 64 * 1024
_ALL_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class TemplateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a template depends on: another value of any of these, and it is not used."""

    kernel: str
    initramfs: str
    """SHA-256 of the files of the image, in hex."""
    command_line: str
    qemu: str
    """SHA-256 of the program, in hex."""
    accelerator: Accelerator
    processor: str
    """What says that the host has the same processor, where guests see it; empty where QEMU makes one up."""
    memory: int
    """MiB."""
    processors: int

    @property
    def shape(self) -> str:
        """In words."""
        return shape_text(self.memory, self.processors)

    @property
    def folder(self) -> str:
        """The name of its folder: there is one template for a shape."""
        return f"{self.memory}M-{self.processors}"


class TemplateManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`template.json`."""

    version: int
    key: TemplateKey
    memory_sha256: _Sha256
    state_sha256: _Sha256


def shape_text(memory: int, processors: int) -> str:
    """How people are told of the shape of a machine."""
    return f"{memory} MiB and {processors} processor{'' if processors == 1 else 's'}"


def write_template(folder: Path, key: TemplateKey, frozen: FrozenMachine) -> None:
    """Put a template into its folder below `folder`, in the place of an older one. Raises `OSError`."""
    new = folder / f"{key.folder}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    digests = {}
    for name, source in ((MEMORY, frozen.memory), (STATE, frozen.state)):
        target = os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            digests[name] = _copy(source, target)
            os.fsync(target)
        finally:
            os.close(target)
    manifest = TemplateManifest(MANIFEST_VERSION, key, digests[MEMORY], digests[STATE])
    (new / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    remove_template(folder, key.folder)
    new.rename(folder / key.folder)


def remove_template(folder: Path, name: str) -> None:
    """Whoever reads it meanwhile finds that it is damaged, and does without. Raises `OSError`."""
    if (folder / name).exists():
        (folder / name / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder / name)


def read_manifest(folder: Path) -> TemplateManifest:
    """The manifest of the template in `folder`. Raises `FileNotFoundError` or `TemplateError`."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST)
        manifest = decode_strictly(content, TemplateManifest)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.DecodeError) as error:
        raise TemplateError(f"template-damaged: {path}: {error}") from None
    if manifest.version != MANIFEST_VERSION:
        raise TemplateError(f"template-outdated: {path} has version {manifest.version}, not {MANIFEST_VERSION}")
    return manifest


def load_sealed(path: Path, sha256: str) -> int:
    """A descriptor of the file's content in memory, which nobody can change. Raises `TemplateError`.

    Clones of several keeps map it: not the file, which somebody might write to, and which some QEMUs open for writing.
    """
    target = os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _copy(source, target)
        finally:
            os.close(source)
        if found != sha256:
            raise TemplateError(f"template-damaged: {path} was changed since it was made")
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except OSError as error:
        os.close(target)
        raise TemplateError(f"template-damaged: {path}: {error.strerror}") from None
    except BaseException:
        os.close(target)
        raise
    return target


def _copy(source: int, target: int) -> str:
    """Copy what is not zero, leaving holes; the SHA-256 of size and content, however many holes there were."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    for offset, chunk in _content(source, size):
        os.pwrite(target, chunk, offset)
        digest.update(offset.to_bytes(8, "big") + chunk)
    return digest.hexdigest()


def _content(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < size:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes follows
                return
            raise
        position -= position % _CHUNK
        chunk = os.pread(descriptor, _CHUNK, position)
        if not chunk:
            return
        if chunk != _ZEROS[: len(chunk)]:
            yield position, chunk
        position += len(chunk)
