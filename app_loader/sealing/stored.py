"""Files of the keep's state that sealing depends on: always whole, and on disk before anything relies on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from app_loader.durable_files import read_small
from app_loader.sealing.errors import SealingError


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`, which is what `make` gives when it is missing. Raises `SealingError`."""
    try:
        return read_small(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SealingError(f"{path.name} cannot be read: {error.strerror}") from None
    content = make()
    try:
        replace_file(path, content)
    except OSError as error:
        raise SealingError(f"{path.name} cannot be stored: {error.strerror}") from None
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole, or leave it as it is. Raises `OSError`."""
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
