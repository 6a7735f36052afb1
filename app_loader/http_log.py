"""What a workload prints while it answers HTTP requests: the newest lines, in memory, for the keep's owner."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final

MAX_LOG: Final = 256 * 1024
"""Bytes of lines that are kept; older ones are forgotten."""
MAX_LINE: Final = 4096
"""Bytes after which a line is cut into two."""

_BLOCK: Final = 64 * 1024


class HttpLog:
    """Lines of all processes, in order of their ends. Never in the keep's own log, which is the host's."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._end = 0
        self._unfinished: dict[int, bytes] = {}
        """The last line of each process, by our end of its pipe."""

    def writer(self) -> int:
        """A descriptor for the standard output and error of one process, which is the caller's to close."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self._unfinished[reader] = b""
        asyncio.get_running_loop().add_reader(reader, self._pump, reader)
        return writer

    def read(self, offset: int) -> tuple[int, bytes]:
        """What is kept from this byte on, counted from the keep's start, and the byte with which it begins."""
        start = self._end - self._size
        kept = b"".join(self._lines)
        begin = min(max(offset, start), self._end)
        return begin, kept[begin - start :]

    def close(self) -> None:
        """Nobody is listened to any more."""
        for reader in tuple(self._unfinished):
            self._hang_up(reader)

    def _pump(self, reader: int) -> None:
        """One block, so that a guest that floods its output delays the server no longer."""
        try:
            block = os.read(reader, _BLOCK)
        except BlockingIOError:
            return
        if not block:
            self._hang_up(reader)
            return
        *lines, rest = (self._unfinished[reader] + block).split(b"\n")
        for line in lines:
            self._keep(line)
        while len(rest) > MAX_LINE:
            self._keep(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._unfinished[reader] = rest

    def _hang_up(self, reader: int) -> None:
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        if rest := self._unfinished.pop(reader):
            self._keep(rest)

    def _keep(self, line: bytes) -> None:
        for start in range(0, max(1, len(line)), MAX_LINE):
            part = line[start : start + MAX_LINE] + b"\n"
            self._lines.append(part)
            self._size += len(part)
            self._end += len(part)
        while self._size > MAX_LOG:
            self._size -= len(self._lines.popleft())
