"""A folder of sealed files opened into one in memory, and what runs made of that sealed again.

Guests change the one in memory meanwhile: it is walked by descriptors, and no link in it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from app_loader.disk_usage import MAX_DEPTH
from app_loader.paths import FOLDER_MODE
from app_loader.storage import PlainReader, PlainWriter, Reader, Storage, Writer

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_SETTLED: Final = 100_000_000
"""Nanoseconds; a file that was changed this short before it was looked at may change again with the same time stamp."""


class Known(NamedTuple):
    """An entry of the folder in memory that is the same as a sealed one."""

    kind: int
    """As S_IFMT has it."""
    link: bytes = b""
    file: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Inode, size, times of change of content and of anything."""
    settled: bool = True
    sealed: int = 0
    """Inode of the sealed file."""


Tree = dict[bytes, Known]
"""By the path below the area."""


def open_tree(source: Path, target: Path, storage: Storage) -> Tree:
    """Open what is in `source` into the empty folder `target`. Raises `OSError`, `RefusalError`."""
    tree: Tree = {}
    with _folder(source) as sealed, _folder(target) as opened:
        _open_folder(sealed, opened, source, b"", _Opening(tree, storage), 1)
    return tree


def is_unchanged(folder: Path, tree: Tree) -> bool:
    """Whether `folder` is as it was opened or sealed last."""
    with _folder(folder) as opened:
        count = 0
        for path, entry in _entries(opened, b"", 1):
            known = tree.get(path)
            if known is None or not _is_same(known, entry):
                return False
            count += 1
    return count == len(tree)


def seal_tree(folder: Path, source: Path, target: Path, storage: Storage, tree: Tree) -> Tree:
    """Seal `folder` into the empty folder `target`, all on disk afterwards; what is the same comes from `source`.

    Files are sealed as those of `source`, whose place `target` will take. Raises `OSError`, `RefusalError`.
    """
    sealed: Tree = {}
    with _folder(folder) as opened, _folder(source) as old, _folder(target) as new:
        _seal_folder(opened, old, new, source, b"", _Sealing(tree, sealed, storage), 1)
    return sealed


def copy_in(source: int, path: Path, target: int, storage: Storage) -> None:
    """Open one sealed file, which is to lie at `path`, into an empty one. Raises `OSError`, `RefusalError`."""
    _pour(storage.reader(source, path), PlainWriter(target))


class _Opening(NamedTuple):
    tree: Tree
    storage: Storage


class _Sealing(NamedTuple):
    known: Tree
    sealed: Tree
    storage: Storage


def _open_folder(sealed: int, opened: int, path: Path, below: bytes, work: _Opening, depth: int) -> None:
    for name in os.listdir(sealed):
        status = os.lstat(name, dir_fd=sealed)
        where = below + os.fsencode(name)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, FOLDER_MODE, dir_fd=opened)
            work.tree[where] = Known(stat.S_IFDIR)
            with _below(sealed, name, depth) as inner, _below(opened, name, depth) as made:
                _open_folder(inner, made, path / name, where + b"/", work, depth + 1)
        elif stat.S_ISLNK(status.st_mode):
            link = work.storage.decode_link(os.readlink(os.fsencode(name), dir_fd=sealed), path / name)
            os.symlink(link, os.fsencode(name), dir_fd=opened)
            work.tree[where] = Known(stat.S_IFLNK, link)
        elif stat.S_ISREG(status.st_mode):
            work.tree[where] = _open_file(sealed, opened, name, path / name, work.storage)


def _open_file(sealed: int, opened: int, name: str, path: Path, storage: Storage) -> Known:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=sealed)
    try:
        status = os.fstat(source)
        target = os.open(name, _NEW_FILE, 0o600, dir_fd=opened)
        try:
            copy_in(source, path, target, storage)
            # Long enough ago that whatever a run writes has another time.
            changed = min(status.st_mtime_ns, time.time_ns() - 2 * _SETTLED)
            os.utime(target, ns=(changed, changed))
            return _known(os.fstat(target), status.st_ino)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _seal_folder(opened: int, old: int, new: int, path: Path, below: bytes, work: _Sealing, depth: int) -> None:
    for name in os.listdir(opened):
        try:
            _seal_entry(name, opened, old, new, path, below, work, depth)
        except OSError as error:
            # Another run has removed it meanwhile, or put something else there.
            if error.errno not in _GONE:
                raise
    os.fsync(new)


def _seal_entry(
    name: str, opened: int, old: int, new: int, path: Path, below: bytes, work: _Sealing, depth: int
) -> None:
    status = os.lstat(name, dir_fd=opened)
    where = below + os.fsencode(name)
    if stat.S_ISDIR(status.st_mode):
        with _below(opened, name, depth) as inner:
            os.mkdir(name, FOLDER_MODE, dir_fd=new)
            with _below(new, name, depth) as made, _old_below(old, name) as before:
                _seal_folder(inner, before, made, path / name, where + b"/", work, depth + 1)
        work.sealed[where] = Known(stat.S_IFDIR)
    elif stat.S_ISLNK(status.st_mode):
        link = os.readlink(os.fsencode(name), dir_fd=opened)
        os.symlink(work.storage.encode_link(link, path / name), os.fsencode(name), dir_fd=new)
        work.sealed[where] = Known(stat.S_IFLNK, link)
    elif stat.S_ISREG(status.st_mode):
        known = work.known.get(where)
        if known is not None and _is_same(known, status) and _inode(old, name) == known.sealed:
            os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            work.sealed[where] = known
        else:
            work.sealed[where] = _seal_file(opened, new, name, path / name, work.storage)


def _seal_file(opened: int, new: int, name: str, path: Path, storage: Storage) -> Known:
    # O_NONBLOCK and the second look: what stands there now may be another thing.
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
    try:
        # Before it is read: what is written meanwhile counts as a change.
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, name)
        target = os.open(name, _NEW_FILE, 0o600, dir_fd=new)
        try:
            known = _known(status, os.fstat(target).st_ino)
            _pour(PlainReader(source), storage.writer(target, path))
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
            os.fsync(target)
            return known
        finally:
            os.close(target)
    finally:
        os.close(source)


def _pour(reader: Reader, writer: Writer) -> None:
    while content := reader.read():
        writer.write(content)
    writer.finish()


def _known(status: os.stat_result, sealed: int) -> Known:
    settled = status.st_mtime_ns + _SETTLED < time.time_ns()
    return Known(stat.S_IFREG, b"", _signature(status), settled, sealed)


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_same(known: Known, entry: os.stat_result | bytes) -> bool:
    if isinstance(entry, bytes):
        return known.kind == stat.S_IFLNK and known.link == entry
    if stat.S_ISREG(entry.st_mode):
        return known.kind == stat.S_IFREG and known.settled and known.file == _signature(entry)
    return known.kind == stat.S_IFMT(entry.st_mode)


def _entries(folder: int, below: bytes, depth: int) -> Iterator[tuple[bytes, os.stat_result | bytes]]:
    """Path and status of all that can be sealed; of a link what it says."""
    for name in os.listdir(folder):
        where = below + os.fsencode(name)
        try:
            status = os.lstat(name, dir_fd=folder)
            if stat.S_ISLNK(status.st_mode):
                yield where, os.readlink(os.fsencode(name), dir_fd=folder)
            elif stat.S_ISDIR(status.st_mode):
                yield where, status
                with _below(folder, name, depth) as inner:
                    yield from _entries(inner, where + b"/", depth + 1)
            elif stat.S_ISREG(status.st_mode):
                yield where, status
        except OSError as error:
            if error.errno not in _GONE:
                raise


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _below(folder: int, name: str, depth: int) -> Iterator[int]:
    if depth >= MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {MAX_DEPTH} times")
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _old_below(folder: int, name: str) -> Iterator[int]:
    """The folder of this name among the sealed ones; -1 when there is none."""
    descriptor = -1
    with contextlib.suppress(OSError):
        if folder >= 0:
            descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _inode(folder: int, name: str) -> int:
    if folder < 0:
        return 0
    try:
        return os.lstat(name, dir_fd=folder).st_ino
    except OSError:
        return 0
