"""One output stream of a run: written to a file as it comes, read back and followed by any number of readers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

_BLOCK = 64 * 1024


class Spool:
    """A file that grows until it is finished. No file is made before there is a first byte."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._waiting: set[asyncio.Future[None]] = set()
        self.size = 0
        self.error: OSError | None = None
        """Why something that was taken is not stored."""
        self.finished = False

    def append(self, content: bytes) -> None:
        """Raises `OSError`, for instance when the disk is full; what fitted is kept."""
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        view = memoryview(content)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]
        self._wake()

    def finish(self) -> None:
        """No more comes; followers end when they have read what there is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.finished = True
        self._wake()

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """The bytes from `offset`, those that are there and those that come, until the stream is finished."""
        while True:
            end = self.size
            finished = self.finished
            if offset < end:
                async for block in read(self._path, offset, end):
                    offset += len(block)
                    yield block
            elif finished:
                return
            else:
                await self._growth()

    async def _growth(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


async def read(path: Path, offset: int, end: int) -> AsyncIterator[bytes]:
    """The bytes of a file from `offset` up to `end`, in blocks, letting others run in between."""
    if offset >= end:
        return
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while offset < end:
            block = file.read(min(_BLOCK, end - offset))
            if not block:
                return
            offset += len(block)
            yield block
            await asyncio.sleep(0)
