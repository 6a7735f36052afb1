"""Small files that are replaced as a whole and survive loss of power."""

from __future__ import annotations

import os
from pathlib import Path


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
