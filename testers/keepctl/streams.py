"""Standard streams as raw bytes, unbuffered: what a guest writes is shown at once and unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

STDIN = 0
STDOUT = 1
STDERR = 2

CHUNK = 64 * 1024


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises `BrokenPipeError` when nobody reads any more."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_chunks(descriptor: int) -> Iterator[bytes]:
    """What can be read from a descriptor, as it comes, until its end."""
    while chunk := os.read(descriptor, CHUNK):
        yield chunk


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes."""
    with path.open("rb", buffering=0) as file:
        yield from read_chunks(file.fileno())
