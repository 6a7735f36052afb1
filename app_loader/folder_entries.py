"""Entries of a folder that guests write to: looked at, opened and described, and no link followed."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from app_loader.paths import display, link_refusal, open_folder
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import FileKind


@contextlib.contextmanager
def opened(root: Path, names: tuple[str, ...], *, create: bool) -> Iterator[int]:
    """The folder `names` below `root` (O_PATH); with `create`, made if it is missing. Raises `RefusalError`."""
    folder = open_folder(root, names, create=create)
    try:
        yield folder
    finally:
        os.close(folder)


def status(folder: int, name: str) -> os.stat_result:
    """Of an entry, not of what a link names. Raises `RefusalError`."""
    try:
        return os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        raise not_found(name) from None


def not_found(name: str) -> RefusalError:
    """There is nothing of this name."""
    return RefusalError(ErrorCode.FILE_NOT_FOUND, f"there is no {display(name)!r}")


def exists(folder: int, name: str) -> bool:
    """Whether there is an entry."""
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def replaceable(folder: int, name: str) -> int:
    """Bytes of the file that is there, 0 for none. Raises `RefusalError` for a link or a folder."""
    try:
        status = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return 0
    if stat.S_ISLNK(status.st_mode):
        raise link_refusal(name)
    if stat.S_ISDIR(status.st_mode):
        raise folder_in_the_way(name)
    return status.st_size


def folder_in_the_way(name: str) -> RefusalError:
    """A file cannot replace a folder."""
    return RefusalError(
        ErrorCode.FILE_CONFLICT, f"{display(name)!r} is a folder", remedy="remove it first, or use another name"
    )


def open_file(folder: int, name: str) -> int:
    """A descriptor to read a file by. Raises `RefusalError`."""
    mode = status(folder, name).st_mode
    if stat.S_ISLNK(mode):
        raise link_refusal(name)
    # O_NONBLOCK and the second look: what stands there now may be another thing.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusalError(ErrorCode.FILE_PATH_INVALID, f"{display(name)!r} is no file")
    return descriptor


def kind_of(name: str, status: os.stat_result) -> FileKind:
    """An entry for people and JSON."""
    kind: Literal["file", "folder", "link", "other"] = "other"
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(status.st_mode):
        kind = "link"
    size = status.st_size if kind == "file" else 0
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime))
    return FileKind(name=display(name), kind=kind, size=size, modified_at=modified)


@contextlib.contextmanager
def scan(folder: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    """The entries of a folder that is open in whatever way."""
    # A descriptor with O_PATH cannot be read from.
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(readable) as entries:
            yield entries
    finally:
        os.close(readable)


def sync_folder(folder: int) -> None:
    """Make its entries durable."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)
