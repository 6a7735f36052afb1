"""A keep's state, sealed: files, small files and output streams, each under a key of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app_loader.paths import display
from app_loader.storage import Reader, Writer
from keep_protocol.errors import RefusalError

if TYPE_CHECKING:
    # Imported with the first file that is sealed or opened: an empty keep has none.
    from app_loader.at_rest.file_keys import FileKeys
    from app_loader.at_rest.sealed_spool import FrameReader
    from app_loader.sealing.sealer import Sealer
    from app_loader.spool import Spool


class SealedStorage:
    """`Storage` below the folder `state`, with the keys of `sealer`, which is asked when it is first needed."""

    sealed = True

    def __init__(self, state: Path, sealer: Callable[[], Sealer], lock: asyncio.Lock) -> None:
        """`lock` is held while `sealer` may wait for hardware."""
        self._state = state
        self._sealer = sealer
        self._lock = lock
        self._keys_found: FileKeys | None = None
        self._unlocked = False

    async def unlock(self) -> None:
        if not self._unlocked:
            async with self._lock:
                with _refusing("the state of this keep"):
                    await asyncio.to_thread(self._keys().unlock)
            self._unlocked = True

    def writer(self, descriptor: int, path: Path) -> Writer:
        from app_loader.at_rest.sealed_file import MAGIC, SealedWriter

        with _refusing(self._shown(path)):
            return _RefusingWriter(
                SealedWriter(descriptor, self._keys().new(MAGIC, self._name(path))), self._shown(path)
            )

    def reader(self, descriptor: int, path: Path) -> Reader:
        from app_loader.at_rest.file_keys import HEADER
        from app_loader.at_rest.sealed_file import MAGIC, SealedReader

        with _refusing(self._shown(path)):
            key = self._keys().of(MAGIC, os.pread(descriptor, HEADER.size, 0), self._name(path))
            return _RefusingReader(SealedReader(descriptor, key), self._shown(path))

    def encode(self, content: bytes, path: Path) -> bytes:
        from app_loader.at_rest.sealed_file import MAGIC, seal_chunk

        with _refusing(self._shown(path)):
            key = self._keys().new(MAGIC, self._name(path))
            return key.header + seal_chunk(key, 0, content, last=True)

    def decode(self, stored: bytes, path: Path) -> bytes:
        from app_loader.at_rest.file_keys import HEADER
        from app_loader.at_rest.sealed_file import MAGIC, open_chunk

        with _refusing(self._shown(path)):
            key = self._keys().of(MAGIC, stored[: HEADER.size], self._name(path))
            return open_chunk(key, 0, stored[HEADER.size :], last=True)

    def encode_link(self, target: bytes, path: Path) -> bytes:
        from app_loader.at_rest.sealed_link import seal_link

        with _refusing(self._shown(path)):
            return seal_link(self._keys(), target, self._name(path))

    def decode_link(self, stored: bytes, path: Path) -> bytes:
        from app_loader.at_rest.sealed_link import open_link

        with _refusing(self._shown(path)):
            return open_link(self._keys(), stored, self._name(path))

    def content_size(self, stored: int) -> int:
        from app_loader.at_rest.sealed_file import content_size

        return content_size(stored)

    def spool(self, path: Path) -> Spool:
        from app_loader.at_rest.sealed_spool import MAGIC, SealedSpool

        return SealedSpool(path, lambda: self._keys().new(MAGIC, self._name(path)), self._frames)

    def spooled(self, path: Path) -> int:
        from app_loader.sealing.errors import SealingError

        try:
            with contextlib.closing(self._frames(path)) as frames:
                return frames.measure()
        except (OSError, SealingError):
            return 0

    async def read_spool(self, path: Path, offset: int, end: int) -> AsyncIterator[bytes]:
        if offset >= end:
            return
        with _refusing(self._shown(path)), contextlib.closing(self._frames(path)) as frames:
            async for block in frames.read(offset, end):
                yield block

    def _frames(self, path: Path) -> FrameReader:
        from app_loader.at_rest.sealed_spool import MAGIC, FrameReader

        return FrameReader(path, lambda header: self._keys().of(MAGIC, header, self._name(path)))

    def _keys(self) -> FileKeys:
        if self._keys_found is None:
            from app_loader.at_rest.file_keys import FileKeys

            self._keys_found = FileKeys(lambda: self._sealer().keys)
        return self._keys_found

    def _name(self, path: Path) -> bytes:
        return os.fsencode(path.relative_to(self._state))

    def _shown(self, path: Path) -> str:
        return display(str(path.relative_to(self._state)))


class _RefusingWriter:
    def __init__(self, writer: Writer, path: str) -> None:
        self._writer = writer
        self._path = path

    def write(self, content: bytes) -> None:
        with _refusing(self._path):
            self._writer.write(content)

    def finish(self) -> None:
        with _refusing(self._path):
            self._writer.finish()


class _RefusingReader:
    def __init__(self, reader: Reader, path: str) -> None:
        self._reader = reader
        self._path = path
        self.size = reader.size

    def read(self) -> bytes:
        with _refusing(self._path):
            return self._reader.read()


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Errors of sealing as refusals that name the file."""
    from app_loader.sealing.errors import SealingError
    from app_loader.sealing.refusals import refusal_of

    try:
        yield
    except SealingError as error:
        refusal = refusal_of(error)
        raise RefusalError(refusal.code, f"{path}: {error}", remedy=refusal.remedy) from None
