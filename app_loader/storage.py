"""How what a keep stores lies on its disk: the seam between plain and sealed state."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from app_loader import spool
from app_loader.spool import Spool

_BLOCK = 256 * 1024


class Writer(Protocol):
    """Writes a file's content, piece by piece."""

    def write(self, content: bytes) -> None:
        """Raises `OSError`."""

    def finish(self) -> None:
        """There is no more; without this the file is not whole. Raises `OSError`."""


class Reader(Protocol):
    """Reads a file's content, from its begin."""

    size: int
    """Bytes of the content."""

    def read(self) -> bytes:
        """The next piece; empty at the end. Raises `RefusalError` for a sealed file that was changed."""


class Storage(Protocol):
    """Files below a keep's state folder. A file's path is part of what it is: a sealed one opens at no other.

    What is sealed raises `RefusalError` where there is no key for it, or where it was changed.
    """

    sealed: bool

    async def unlock(self) -> None:
        """Have the keys before something is read or written: hardware may take its time. Raises `RefusalError`."""

    def writer(self, descriptor: int, path: Path) -> Writer:
        """For the file that is open as `descriptor`, empty, and will be at `path`."""

    def reader(self, descriptor: int, path: Path) -> Reader:
        """For the file that is open as `descriptor` and lies at `path`."""

    def encode(self, content: bytes, path: Path) -> bytes:
        """What to write to `path` for a small file with this content."""

    def decode(self, stored: bytes, path: Path) -> bytes:
        """The content of a small file."""

    def encode_link(self, target: bytes, path: Path) -> bytes:
        """What the link at `path`, which leads to `target`, says on disk."""

    def decode_link(self, stored: bytes, path: Path) -> bytes:
        """Where the link at `path` leads."""

    def content_size(self, stored: int) -> int:
        """Bytes of content of a file that has so many on disk."""

    def spool(self, path: Path) -> Spool:
        """A new output stream of a run."""

    def spooled(self, path: Path) -> int:
        """Bytes that an output stream has; 0 when there is none."""

    def read_spool(self, path: Path, offset: int, end: int) -> AsyncIterator[bytes]:
        """A part of an output stream, in blocks."""


class PlainStorage:
    """Everything as it is."""

    sealed = False

    async def unlock(self) -> None:
        """There is nothing to unlock."""

    def writer(self, descriptor: int, path: Path) -> Writer:
        return PlainWriter(descriptor)

    def reader(self, descriptor: int, path: Path) -> Reader:
        return PlainReader(descriptor)

    def encode(self, content: bytes, path: Path) -> bytes:
        return content

    def decode(self, stored: bytes, path: Path) -> bytes:
        return stored

    def encode_link(self, target: bytes, path: Path) -> bytes:
        return target

    def decode_link(self, stored: bytes, path: Path) -> bytes:
        return stored

    def content_size(self, stored: int) -> int:
        return stored

    def spool(self, path: Path) -> Spool:
        return Spool(path)

    def spooled(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0

    def read_spool(self, path: Path, offset: int, end: int) -> AsyncIterator[bytes]:
        return spool.read(path, offset, end)


PLAIN = PlainStorage()


class PlainWriter:
    """Writes to a descriptor, which stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        write_all(self._descriptor, content)

    def finish(self) -> None:
        pass


class PlainReader:
    """Reads a descriptor, which stays open, as far as the file went when it was opened."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0
        self.size = os.fstat(descriptor).st_size

    def read(self) -> bytes:
        content = os.pread(self._descriptor, min(_BLOCK, self.size - self._offset), self._offset)
        self._offset += len(content)
        return content


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Raises `OSError`."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
