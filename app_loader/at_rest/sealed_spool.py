"""An output stream of a run, sealed as it comes: a header, then frames of AES-256-GCM, numbered from 0.

Whatever was shown to anybody is on disk. A stream may be cut off after any frame: the run's record says how long it is.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from app_loader.at_rest.file_keys import HEADER, FileKey
from app_loader.at_rest.sealed_file import open_chunk, seal_chunk
from app_loader.libcrypto_aead import TAG_SIZE
from app_loader.sealing.errors import DamagedFileError
from app_loader.spool import Spool
from app_loader.storage import write_all

MAGIC: Final = b"KSO1"
MAX_FRAME: Final = 64 * 1024
"""Bytes of output in a frame."""

_LENGTH: Final = struct.Struct("!I")
_INTERVAL: Final = 0.02
"""Seconds between frames that are not full: a guest that writes single bytes must not have a frame for each."""
_FRAMES_AT_ONCE: Final = 256


class SealedSpool(Spool):
    """Holds back for a moment what comes in small pieces, but not from somebody who reads."""

    def __init__(self, path: Path, new_key: Callable[[], FileKey], read: Callable[[Path], FrameReader]) -> None:
        super().__init__(path)
        self._new_key = new_key
        self._reader = read
        self._key: FileKey | None = None
        self._pending = bytearray()
        self._frames = 0
        self._sealed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def append(self, content: bytes) -> None:
        """Raises `OSError`, also for what was taken before and could not be stored since."""
        if self.error is not None:
            raise self.error
        self._pending += content
        self.size += len(content)
        if len(self._pending) >= MAX_FRAME or self._waiting or time.monotonic() - self._sealed_at >= _INTERVAL:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._flush_late)
        self._wake()

    def flush(self) -> None:
        """Store what was held back. Raises `OSError`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            while self._pending:
                self._store(bytes(self._pending[:MAX_FRAME]))
                del self._pending[:MAX_FRAME]
        except OSError as error:
            self.size -= len(self._pending)
            self._pending.clear()
            self.error = error
            raise
        finally:
            self._sealed_at = time.monotonic()

    def finish(self) -> None:
        self._flush_late()
        super().finish()

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """As `Spool.follow`."""
        reader: FrameReader | None = None
        try:
            while True:
                self._flush_late()
                end, finished = self.size, self.finished
                if offset < end:
                    reader = reader or self._reader(self._path)
                    async for block in reader.read(offset, end):
                        offset += len(block)
                        yield block
                elif finished:
                    return
                else:
                    await self._growth()
        finally:
            if reader is not None:
                reader.close()

    def _flush_late(self) -> None:
        self._timer = None
        if self.error is None:
            try:
                self.flush()
            except OSError:
                return  # `error` tells, which whoever ends the run reads

    def _store(self, content: bytes) -> None:
        if self._key is None:
            key = self._new_key()
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            write_all(self._descriptor, key.header)
            self._key = key
        # One write, so that the end of the process leaves a whole frame or, on a full disk, a part that is not read.
        sealed = seal_chunk(self._key, self._frames, content, last=False)
        write_all(self._descriptor, _LENGTH.pack(len(content)) + sealed)
        self._frames += 1


class FrameReader:
    """Reads a sealed stream forwards."""

    def __init__(self, path: Path, key_of: Callable[[bytes], FileKey]) -> None:
        """`key_of` makes the key from the header. Raises `OSError`, `SealingError`."""
        # O_NONBLOCK: the host may have put a pipe there, and everybody would wait with whoever reads.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._key = key_of(os.pread(self._descriptor, HEADER.size, 0))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._position = HEADER.size
        """In the file, of the frame that begins with byte `_begin` of the stream."""
        self._begin = 0
        self._number = 0

    def close(self) -> None:
        os.close(self._descriptor)

    async def read(self, offset: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `offset` up to `end`; later calls begin no earlier. Raises `SealingError`."""
        while offset < end:
            size = self._frame_size()
            if size is None:
                raise DamagedFileError(f"it ends after {self._begin} of {end} bytes")
            if offset < self._begin + size:
                sealed = os.pread(self._descriptor, size + TAG_SIZE, self._position + _LENGTH.size)
                content = open_chunk(self._key, self._number, sealed, last=False)
                block = content[offset - self._begin : end - self._begin]
                offset += len(block)
                yield block
                if self._begin + size > end:
                    return
            self._step(size)
            if self._number % _FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)

    def measure(self) -> int:
        """Bytes of the stream that are in whole frames."""
        while (size := self._frame_size()) is not None:
            self._step(size)
        return self._begin

    def _frame_size(self) -> int | None:
        """Of the next frame; None if there is none, or not all of it."""
        head = os.pread(self._descriptor, _LENGTH.size, self._position)
        if len(head) < _LENGTH.size:
            return None
        size: int = _LENGTH.unpack(head)[0]
        stored = os.fstat(self._descriptor).st_size
        if not 0 < size <= MAX_FRAME or self._position + _LENGTH.size + size + TAG_SIZE > stored:
            return None
        return size

    def _step(self, size: int) -> None:
        self._position += _LENGTH.size + size + TAG_SIZE
        self._begin += size
        self._number += 1
