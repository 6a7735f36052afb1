"""Small files that are replaced as a whole and survive loss of power."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

MAX_SMALL_FILE: Final = 16 * 1024 * 1024
"""Bytes; the largest that a keep writes, what a workload is, has four MiB at most."""


def read_small(path: Path) -> bytes:
    """The content of a file of the keep's own. Raises `OSError`, for whatever else the host has put there, too.

    A keep whose memory a file without an end fills, or that waits for a pipe, would never start again.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "this is no file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SMALL_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_SMALL_FILE:
        raise OSError(errno.EFBIG, f"the file has more than {MAX_SMALL_FILE} bytes", str(path))
    return content


def replace_synced(path: Path, content: bytes) -> None:
    """Put `content` in place of a file, on disk when this returns. Raises `OSError`."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
