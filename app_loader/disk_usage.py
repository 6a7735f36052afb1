"""How much the files of a keep take, counted while guests change them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

MAX_DEPTH = 128
"""Folders in folders; each level holds a descriptor while it is counted. A deeper tree counts as unlimited use."""

UNLIMITED = 2**63 - 1

_ENTRIES_AT_ONCE = 256
_BLOCK = 512
"""Bytes; the unit of `st_blocks`, stat(2)."""

_MEMFD = "/memfd:"
"""How the links of /proc/PID/fd to them begin, memfd_create(2)."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Usage(msgspec.Struct, frozen=True):
    """Bytes of all files, and the number of files, folders and links."""

    size: int
    entries: int
    memory: int = 0
    """How many of the bytes are in memory."""


async def measure(folder: Path, content_size: Callable[[int], int] | None = None) -> Usage:
    """What is below `folder`; links are not followed. Lets others run in between.

    `content_size` tells from the size of a file how much counts of it.
    """
    total = entries = 0
    for size in _sizes(os.open(folder, _FLAGS), 1):
        total += size if content_size is None or size == UNLIMITED else content_size(size)
        entries += 1
        if entries % _ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return Usage(min(total, UNLIMITED), entries)


def used_by_unlinked(pid: int) -> int:
    """Bytes on disk of files that process `pid` has open and that no folder names any more.

    Without what has never had a name: no guest makes memfds, and the module of a sealed keep lies in one.
    """
    total = 0
    root = f"/proc/{pid}/fd"
    try:
        names = os.listdir(root)
    except OSError:
        return 0
    for name in names:
        try:
            status = os.stat(f"{root}/{name}")
            target = os.readlink(f"{root}/{name}")
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and not target.startswith(_MEMFD):
            total += status.st_blocks * _BLOCK
    return total


def _sizes(descriptor: int, depth: int) -> Iterator[int]:
    """One number an entry; closes `descriptor`.

    By descriptors and not by paths: a guest may put a link in a folder's place, or nest beyond PATH_MAX.
    """
    try:
        if depth > MAX_DEPTH:
            yield UNLIMITED
            return
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    below = os.open(entry.name, _FLAGS, dir_fd=descriptor) if stat.S_ISDIR(status.st_mode) else -1
                except OSError:  # it went away, or became something else
                    continue
                yield status.st_size if stat.S_ISREG(status.st_mode) else 0
                if below >= 0:
                    yield from _sizes(below, depth + 1)
    finally:
        os.close(descriptor)
