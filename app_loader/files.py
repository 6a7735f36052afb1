"""The keep's folders of files: what clients put there, what guests leave there, and nothing beside them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from app_loader import disk_usage
from app_loader.area_states import HIDDEN, STAGING
from app_loader.disk_usage import Usage
from app_loader.file_room import MAX_ENTRIES, Room
from app_loader.folder_entries import (
    exists,
    folder_in_the_way,
    kind_of,
    not_found,
    open_file,
    opened,
    replaceable,
    scan,
    status,
    sync_folder,
)
from app_loader.paths import FOLDER_MODE, components, display, link_refusal
from app_loader.plaintext_memory import room_for_plaintext
from app_loader.storage import PLAIN, Reader, Storage
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import FileKind, FileList, FileStored
from keep_protocol.removal import remove_tree
from keep_protocol.spec import DEFAULT_LIMITS
from keep_protocol.states import FileArea

_AREAS: Final = frozenset(area.value for area in FileArea)
_YIELD_EVERY: Final = 256


class View(Protocol):
    """An area in plaintext in memory, while runs have it."""

    folder: Path
    changed: bool
    """Whether something but a run has changed it since it was opened or sealed."""

    def temporary(self) -> Path:
        """Where there is nothing, beside the folder."""

    def open_into(self, sealed: int, path: Path, target: Path) -> None:
        """Open a sealed file, which is to lie at `path`, into a new one. Raises `OSError`, `RefusalError`."""


class Files:
    """The areas below one folder, and their common limit in bytes."""

    def __init__(
        self, root: Path, limit: int, storage: Storage = PLAIN, *, memory: int = DEFAULT_LIMITS.memory
    ) -> None:
        """`memory` is the keep's, in bytes: a part of it may be files in plaintext."""
        self.root = root
        self.limit = limit
        self.room = room_for_plaintext(memory)
        self.storage = storage
        self.written = 0
        """Bytes that uploads ever wrote; tells how far an earlier measurement is off at most."""
        self.views: dict[FileArea, View] = {}
        self.locks = {area: asyncio.Lock() for area in FileArea}
        """Held while an area is opened or sealed, and while something in it is put into its place or removed."""
        self._removals: set[asyncio.Task[None]] = set()

    def stored(self, area: FileArea) -> Path:
        """The folder on disk."""
        return self.root / area.value

    def shown(self, area: FileArea) -> Path:
        """The folder that clients see: as runs have it, but of `sealed`, where clients see envelopes."""
        view = self.views.get(area)
        return self.stored(area) if view is None or area is FileArea.SEALED else view.folder

    def mounted(self, area: FileArea) -> Path:
        """The folder that runs see."""
        view = self.views.get(area)
        return self.stored(area) if view is None else view.folder

    async def used(self) -> int:
        """Bytes of all files, uploads and removals under way among them."""
        return (await self.usage()).size

    async def usage(self) -> Usage:
        """As `used`, with the number of files, folders and links."""
        if not self.storage.sealed and not self.views:
            return await disk_usage.measure(self.root)
        size = entries = memory = 0
        for name in os.listdir(self.root):
            if name.startswith(STAGING):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                below = await self._usage_of(name)
                size += below.size
                entries += below.entries + 1
                memory += below.memory
        return Usage(min(size, disk_usage.UNLIMITED), entries, min(memory, disk_usage.UNLIMITED))

    async def _usage_of(self, name: str) -> Usage:
        if name in _AREAS:
            area = FileArea(name)
            if (view := self.views.get(area)) is not None:
                usage = await disk_usage.measure(view.folder)
                return msgspec.structs.replace(usage, memory=usage.size)
            return await self.usage_on_disk(area)
        path = self.root / name
        if not path.is_dir():
            return Usage(self.storage.content_size(path.stat().st_size), 0)
        return await disk_usage.measure(path, self.storage.content_size)

    async def usage_on_disk(self, area: FileArea) -> Usage:
        """Of the content of what an area has there."""
        return await disk_usage.measure(self.stored(area), self._storage_of(area).content_size)

    def _storage_of(self, area: FileArea) -> Storage:
        """How clients' files lie in the area on disk: envelopes as they come."""
        return PLAIN if area is FileArea.SEALED else self.storage

    async def put(
        self, area: FileArea, path: str, chunks: AsyncIterable[bytes], *, size: int | None, digest: bytes | None
    ) -> tuple[FileStored, bool]:
        """Store a file, durably, all or nothing; the flag says whether it is new. Raises `RefusalError`.

        `size` is what the client announced, `digest` the SHA-256 that the content must have.
        """
        names = _names_of_file(path)
        room = Room(self, lambda: self._replaceable(area, names))
        await room.check(size or 0)
        storage = self._storage_of(area)
        await storage.unlock()
        with self._temporary() as (temporary, descriptor):
            writer = storage.writer(descriptor, self.stored(area).joinpath(*names))
            hasher = hashlib.sha256()
            stored = 0
            async for chunk in chunks:
                await room.check(len(chunk))
                writer.write(chunk)
                self.written += len(chunk)
                stored += len(chunk)
                hasher.update(chunk)
            if digest is not None and hasher.digest() != digest:
                raise RefusalError(
                    ErrorCode.DIGEST_MISMATCH,
                    f"the SHA-256 of what arrived is {hasher.hexdigest()}, not {digest.hex()}; nothing was stored",
                )
            writer.finish()
            if area is FileArea.SEALED:
                from app_loader.at_rest.envelopes import check_envelope

                check_envelope(descriptor)
            # fsync takes as long as the disk likes, so not in the event loop.
            await asyncio.to_thread(os.fsync, descriptor)
            async with self.locks[area]:
                created = await self._move_into_place(temporary, descriptor, area, names)
        await self.sync_folders(area, names[:-1])
        return FileStored(area=area, path=_shown(names), size=stored, digest=hasher.hexdigest()), created

    def _replaceable(self, area: FileArea, names: tuple[str, ...]) -> int:
        """Size of the file that is to be replaced, 0 when there is none. Raises `RefusalError` for a link or folder."""
        try:
            with self._opened(area, names[:-1], create=False) as folder:
                size = replaceable(folder, names[-1])
                return self._content_size(area, size)
        except RefusalError as refusal:
            if refusal.code is ErrorCode.FILE_NOT_FOUND:
                return 0
            raise

    async def _move_into_place(self, temporary: Path, stored: int, area: FileArea, names: tuple[str, ...]) -> bool:
        if (view := self.views.get(area)) is None:
            return self._rename(temporary, self.stored(area), names)
        path = self.stored(area).joinpath(*names)
        in_memory = (await self.usage()).memory + self._storage_of(area).content_size(os.fstat(stored).st_size)
        if in_memory > self.room:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED,
                f"runs that are going have the files of `{area}` in memory, which with this one would be {in_memory}"
                f" bytes; the keep's `limits.memory` leaves {self.room} for them",
                remedy="wait until the runs have ended",
            )
        plain = view.temporary()
        try:
            await asyncio.to_thread(view.open_into, stored, path, plain)
            # A run may have put something in the way, here or there.
            for root in (view.folder, self.stored(area)):
                with opened(root, names[:-1], create=True) as folder:
                    replaceable(folder, names[-1])
            view.changed = True
            created = self._rename(plain, view.folder, names)
            self._rename(temporary, self.stored(area), names)
        except OSError as error:
            detail = f"the file cannot be given to the runs that have `{area}`: {error.strerror}"
            raise RefusalError(ErrorCode.DISK_FULL, detail) from None
        finally:
            plain.unlink(missing_ok=True)
        return created

    def _rename(self, temporary: Path, root: Path, names: tuple[str, ...]) -> bool:
        with opened(root, names[:-1], create=True) as folder:
            # Looked at again: a guest may have put something there meanwhile.
            replaceable(folder, names[-1])
            created = not exists(folder, names[-1])
            try:
                os.rename(temporary, names[-1], dst_dir_fd=folder)
            except IsADirectoryError:
                raise folder_in_the_way(names[-1]) from None
        return created

    def _content_size(self, area: FileArea, size: int) -> int:
        """Of a file of the folder that clients see."""
        if self.shown(area) != self.stored(area):
            return size
        return self._storage_of(area).content_size(size)

    async def make_folder(self, area: FileArea, path: str) -> tuple[FileStored, bool]:
        """Make a folder and those above it; the flag says whether it is new. Raises `RefusalError`."""
        names = components(path)
        await Room(self, lambda: 0).check(0)
        async with self.locks[area]:
            created = not self._is_there(area, names)
            with self._opened(area, names, create=True):
                pass
            if (view := self.views.get(area)) is not None:
                view.changed = True
                for root in (view.folder, self.stored(area)):
                    with opened(root, names, create=True):
                        pass
        await self.sync_folders(area, names)
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
            mode = status(folder, names[-1]).st_mode
        if stat.S_ISLNK(mode):
            raise link_refusal(names[-1])
        return stat.S_ISDIR(mode)

    def open(self, area: FileArea, path: str) -> FileContent:
        """A file, open for reading. Raises `RefusalError`."""
        names = _names_of_file(path)
        storage = self._storage_of(area) if self.shown(area) == self.stored(area) else PLAIN
        with self._opened(area, names[:-1], create=False) as folder:
            descriptor = open_file(folder, names[-1])
        try:
            return FileContent(descriptor, storage.reader(descriptor, self.stored(area).joinpath(*names)))
        except BaseException:
            os.close(descriptor)
            raise

    async def list(self, area: FileArea, path: str) -> FileList:
        """What a folder holds, sorted by name. Raises `RefusalError`."""
        names = components(path)
        entries: list[tuple[str, FileKind]] = []
        with self._opened(area, names, create=False) as folder, scan(folder) as found:
            for entry in found:
                if len(entries) % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                if len(entries) == MAX_ENTRIES:
                    raise RefusalError(
                        ErrorCode.LIMIT_EXCEEDED, f"the folder has more than the {MAX_ENTRIES} entries that are listed"
                    )
                with contextlib.suppress(FileNotFoundError):
                    kind = kind_of(entry.name, entry.stat(follow_symlinks=False))
                    if kind.kind == "file":
                        kind = msgspec.structs.replace(kind, size=self._content_size(area, kind.size))
                    entries.append((entry.name, kind))
        entries.sort(key=lambda named: named[0])
        return FileList(area=area, path=_shown(names), entries=tuple(kind for _, kind in entries))

    async def delete(self, area: FileArea, path: str) -> None:
        """Remove a file, a link (not what it names) or a folder with all in it. Raises `RefusalError`.

        The area's own folder stays, empty: runs that are going have it open.
        """
        names = components(path)
        trash = self.root / f"{HIDDEN}removed-{os.urandom(8).hex()}"
        trashes = [trash]
        trash.mkdir(mode=FOLDER_MODE)
        try:
            async with self.locks[area]:
                places = [(self.stored(area), trash)]
                if (view := self.views.get(area)) is not None:
                    view.changed = True
                    trashes.append(view.temporary())
                    trashes[-1].mkdir(mode=FOLDER_MODE)
                    places.append((view.folder, trashes[-1]))
                # What clients see decides whether it is there.
                places.sort(key=lambda place: place[0] != self.shown(area))
                _discard(*places[0], names)
                for root, other in places[1:]:
                    with contextlib.suppress(RefusalError):
                        _discard(root, other, names)
        finally:
            # Goes on without a client that does not wait for it.
            removal = asyncio.create_task(_remove_patiently(trashes))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            await asyncio.shield(removal)

    def _opened(self, area: FileArea, names: tuple[str, ...], *, create: bool) -> AbstractContextManager[int]:
        """A folder as clients see it."""
        return opened(self.shown(area), names, create=create)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, int]]:
        path = self.root / f"{HIDDEN}upload-{os.urandom(8).hex()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield path, descriptor
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    async def sync_folders(self, area: FileArea, names: tuple[str, ...]) -> None:
        """Make the entries on the way to a stored file durable; fsync(2) of the file does not."""
        for depth in range(len(names), -1, -1):
            # A guest may have moved a folder away meanwhile; then there is no promise to keep.
            with contextlib.suppress(RefusalError), opened(self.stored(area), names[:depth], create=False) as folder:
                await asyncio.to_thread(sync_folder, folder)


class FileContent:
    """A file's content, as long as it was when it was opened: what guests append later is not part of it.

    It ends early when a guest truncates the file meanwhile.
    """

    def __init__(self, descriptor: int, reader: Reader) -> None:
        """`reader` is of `descriptor`, which is closed here in the end."""
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._reader = reader
        self.size = reader.size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := self._reader.read():
            yield chunk

    async def aclose(self) -> None:
        self._file.close()


def _names_of_file(path: str) -> tuple[str, ...]:
    names = components(path)
    if not names or path.endswith("/"):
        raise RefusalError(ErrorCode.FILE_PATH_INVALID, "this names a folder, not a file")
    return names


def _discard(root: Path, trash: Path, names: tuple[str, ...]) -> None:
    """Move it into `trash`, a folder on the same file system; without names, all that there is."""
    if names:
        with opened(root, names[:-1], create=False) as folder:
            # Out of sight at once and as a whole, however long the rest takes.
            try:
                os.rename(names[-1], trash / "0", src_dir_fd=folder)
            except FileNotFoundError:
                raise not_found(names[-1]) from None
    else:
        with opened(root, (), create=False) as folder, scan(folder) as entries:
            for number, entry in enumerate(entries):
                os.rename(entry.name, trash / str(number), src_dir_fd=folder)


async def _remove_patiently(roots: Iterable[Path]) -> None:
    for root in roots:
        for number, _ in enumerate(remove_tree(root)):
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)


def _shown(names: tuple[str, ...]) -> str:
    return "/".join(display(name) for name in names)
