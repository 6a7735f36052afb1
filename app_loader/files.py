"""The keep's three folders of files: what clients put there, what guests leave there, and nothing beside them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from app_loader import disk_usage
from app_loader.paths import FOLDER_MODE, components, display, link_refusal, open_folder
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import FileKind, FileList, FileStored
from keep_protocol.removal import remove_tree
from keep_protocol.states import FileArea

MAX_ENTRIES: Final = 100_000
"""Files, folders and links of a keep; also the most that one listing shows."""

_CHUNK: Final = 256 * 1024
_HIDDEN: Final = "."
"""Uploads and removals under way begin with it, beside the areas and out of guests' sight."""
_YIELD_EVERY: Final = 256


class Files:
    """The areas `input`, `output` and `data` below one folder, and their common limit in bytes."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self.written = 0
        """Bytes that uploads ever wrote; tells how far an earlier measurement is off at most."""
        self._removals: set[asyncio.Task[None]] = set()

    def area(self, area: FileArea) -> Path:
        """The folder that guests see."""
        return self.root / area.value

    def prepare(self) -> None:
        """At start: make the areas, and clear away what an interrupted upload or removal left."""
        self.root.mkdir(mode=FOLDER_MODE, exist_ok=True)
        for area in FileArea:
            self.area(area).mkdir(mode=FOLDER_MODE, exist_ok=True)
        with os.scandir(self.root) as entries:
            leftovers = [Path(entry.path) for entry in entries if entry.name.startswith(_HIDDEN)]
        for leftover in leftovers:
            if leftover.is_dir():
                for _ in remove_tree(leftover):
                    pass
            else:
                leftover.unlink()

    async def used(self) -> int:
        """Bytes of all files, uploads and removals under way among them."""
        return (await disk_usage.measure(self.root)).size

    async def put(
        self, area: FileArea, path: str, chunks: AsyncIterable[bytes], *, size: int | None, digest: bytes | None
    ) -> tuple[FileStored, bool]:
        """Store a file, durably, all or nothing; the flag says whether it is new. Raises `RefusalError`.

        `size` is what the client announced, `digest` the SHA-256 that the content must have.
        """
        names = _names_of_file(path)
        room = _Room(self, lambda: self._replaceable(area, names))
        await room.check(size or 0)
        with self._temporary() as (temporary, descriptor):
            hasher = hashlib.sha256()
            stored = 0
            async for chunk in chunks:
                await room.check(len(chunk))
                _write_all(descriptor, chunk)
                self.written += len(chunk)
                stored += len(chunk)
                hasher.update(chunk)
            if digest is not None and hasher.digest() != digest:
                raise RefusalError(
                    ErrorCode.DIGEST_MISMATCH,
                    f"the SHA-256 of what arrived is {hasher.hexdigest()}, not {digest.hex()}; nothing was stored",
                )
            # fsync takes as long as the disk likes, so not in the event loop.
            await asyncio.to_thread(os.fsync, descriptor)
            created = self._move_into_place(temporary, area, names)
        await self._sync_folders(area, names[:-1])
        return FileStored(area=area, path=_shown(names), size=stored, digest=hasher.hexdigest()), created

    def _replaceable(self, area: FileArea, names: tuple[str, ...]) -> int:
        """Size of the file that is to be replaced, 0 when there is none. Raises `RefusalError` for a link or folder."""
        try:
            with self._opened(area, names[:-1], create=False) as folder:
                return _replaceable(folder, names[-1])
        except RefusalError as refusal:
            if refusal.code is ErrorCode.FILE_NOT_FOUND:
                return 0
            raise

    def _move_into_place(self, temporary: Path, area: FileArea, names: tuple[str, ...]) -> bool:
        with self._opened(area, names[:-1], create=True) as folder:
            # Looked at again: a guest may have put something there meanwhile.
            _replaceable(folder, names[-1])
            created = not _exists(folder, names[-1])
            try:
                os.rename(temporary, names[-1], dst_dir_fd=folder)
            except IsADirectoryError:
                raise _folder_in_the_way(names[-1]) from None
        return created

    async def make_folder(self, area: FileArea, path: str) -> tuple[FileStored, bool]:
        """Make a folder and those above it; the flag says whether it is new. Raises `RefusalError`."""
        names = components(path)
        await _Room(self, lambda: 0).check(0)
        created = not self._is_there(area, names)
        with self._opened(area, names, create=True):
            pass
        await self._sync_folders(area, names)
        empty = hashlib.sha256().hexdigest()
        return FileStored(area=area, path=_shown(names) + "/", size=0, digest=empty), created

    def _is_there(self, area: FileArea, names: tuple[str, ...]) -> bool:
        try:
            with self._opened(area, names, create=False):
                return True
        except RefusalError as refusal:
            if refusal.code is ErrorCode.FILE_NOT_FOUND:
                return False
            raise

    def is_folder(self, area: FileArea, path: str) -> bool:
        """Whether `path` is to be listed. Raises `RefusalError` when there is nothing, or a link."""
        names = components(path)
        if not names:
            return True
        with self._opened(area, names[:-1], create=False) as folder:
            mode = _status(folder, names[-1]).st_mode
        if stat.S_ISLNK(mode):
            raise link_refusal(names[-1])
        return stat.S_ISDIR(mode)

    def open(self, area: FileArea, path: str) -> FileContent:
        """A file, open for reading. Raises `RefusalError`."""
        names = _names_of_file(path)
        with self._opened(area, names[:-1], create=False) as folder:
            return FileContent(_open_file(folder, names[-1]))

    async def list(self, area: FileArea, path: str) -> FileList:
        """What a folder holds, sorted by name. Raises `RefusalError`."""
        names = components(path)
        entries: list[tuple[str, FileKind]] = []
        with self._opened(area, names, create=False) as folder, _scan(folder) as scan:
            for entry in scan:
                if len(entries) % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                if len(entries) == MAX_ENTRIES:
                    raise RefusalError(
                        ErrorCode.LIMIT_EXCEEDED, f"the folder has more than the {MAX_ENTRIES} entries that are listed"
                    )
                with contextlib.suppress(FileNotFoundError):
                    entries.append((entry.name, _kind(entry.name, entry.stat(follow_symlinks=False))))
        entries.sort(key=lambda named: named[0])
        return FileList(area=area, path=_shown(names), entries=tuple(kind for _, kind in entries))

    async def delete(self, area: FileArea, path: str) -> None:
        """Remove a file, a link (not what it names) or a folder with all in it. Raises `RefusalError`.

        The area's own folder stays, empty: runs that are going have it open.
        """
        names = components(path)
        trash = self.root / f"{_HIDDEN}removed-{os.urandom(8).hex()}"
        trash.mkdir(mode=FOLDER_MODE)
        try:
            if names:
                with self._opened(area, names[:-1], create=False) as folder:
                    # Out of sight at once and as a whole, however long the rest takes.
                    try:
                        os.rename(names[-1], trash / "0", src_dir_fd=folder)
                    except FileNotFoundError:
                        raise _not_found(names[-1]) from None
            else:
                with self._opened(area, (), create=False) as folder, _scan(folder) as scan:
                    for number, entry in enumerate(scan):
                        os.rename(entry.name, trash / str(number), src_dir_fd=folder)
        finally:
            # Goes on without a client that does not wait for it.
            removal = asyncio.create_task(_remove_patiently(trash))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            await asyncio.shield(removal)

    @contextlib.contextmanager
    def _opened(self, area: FileArea, names: tuple[str, ...], *, create: bool) -> Iterator[int]:
        folder = open_folder(self.area(area), names, create=create)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, int]]:
        path = self.root / f"{_HIDDEN}upload-{os.urandom(8).hex()}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield path, descriptor
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    async def _sync_folders(self, area: FileArea, names: tuple[str, ...]) -> None:
        """Make the entries on the way to a stored file durable; fsync(2) of the file does not."""
        for depth in range(len(names), -1, -1):
            # A guest may have moved a folder away meanwhile; then there is no promise to keep.
            with contextlib.suppress(RefusalError), self._opened(area, names[:depth], create=False) as folder:
                await asyncio.to_thread(_sync_folder, folder)


class FileContent:
    """A file's content, as long as it was when it was opened: what guests append later is not part of it.

    It ends early when a guest truncates the file meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self.size = os.fstat(descriptor).st_size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = self.size
        while remaining > 0 and (chunk := self._file.read(min(_CHUNK, remaining))):
            remaining -= len(chunk)
            yield chunk

    async def aclose(self) -> None:
        self._file.close()


class _Room:
    """What may still be written: the limit less what is stored, but for the file that is being replaced."""

    def __init__(self, files: Files, replaced: Callable[[], int]) -> None:
        self._files = files
        self._replaced = replaced
        self._base: int | None = None
        self._mark = 0

    async def check(self, size: int) -> None:
        """Raise `RefusalError` when `size` bytes more are too many."""
        if self._base is not None and self._base + self._files.written - self._mark + size <= self._files.limit:
            return
        # Others may have written or removed since it was measured.
        self._mark = self._files.written
        usage = await disk_usage.measure(self._files.root)
        self._base = usage.size - self._replaced()
        if self._base + self._files.written - self._mark + size > self._files.limit:
            raise RefusalError(
                ErrorCode.BODY_TOO_LARGE,
                f"the keep's files would be more than the {self._files.limit} bytes of its limit `files`"
                f"; {max(self._files.limit - self._base, 0)} are left",
                remedy="remove files, or create a keep with a larger limit",
            )
        if usage.entries >= MAX_ENTRIES:
            raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"a keep has at most {MAX_ENTRIES} files and folders")


def _names_of_file(path: str) -> tuple[str, ...]:
    names = components(path)
    if not names or path.endswith("/"):
        raise RefusalError(ErrorCode.FILE_PATH_INVALID, "this names a folder, not a file")
    return names


def _status(folder: int, name: str) -> os.stat_result:
    try:
        return os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        raise _not_found(name) from None


def _not_found(name: str) -> RefusalError:
    return RefusalError(ErrorCode.FILE_NOT_FOUND, f"there is no {display(name)!r}")


def _exists(folder: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _replaceable(folder: int, name: str) -> int:
    try:
        status = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return 0
    if stat.S_ISLNK(status.st_mode):
        raise link_refusal(name)
    if stat.S_ISDIR(status.st_mode):
        raise _folder_in_the_way(name)
    return status.st_size


def _folder_in_the_way(name: str) -> RefusalError:
    return RefusalError(
        ErrorCode.FILE_CONFLICT, f"{display(name)!r} is a folder", remedy="remove it first, or use another name"
    )


def _open_file(folder: int, name: str) -> int:
    mode = _status(folder, name).st_mode
    if stat.S_ISLNK(mode):
        raise link_refusal(name)
    # O_NONBLOCK and the second look: what stands there now may be another thing.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusalError(ErrorCode.FILE_PATH_INVALID, f"{display(name)!r} is no file")
    return descriptor


async def _remove_patiently(root: Path) -> None:
    for number, _ in enumerate(remove_tree(root)):
        if number % _YIELD_EVERY == 0:
            await asyncio.sleep(0)


def _kind(name: str, status: os.stat_result) -> FileKind:
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
def _scan(folder: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    # A descriptor with O_PATH cannot be read from.
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(readable) as entries:
            yield entries
    finally:
        os.close(readable)


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: int) -> None:
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def _shown(names: tuple[str, ...]) -> str:
    return "/".join(display(name) for name in names)
