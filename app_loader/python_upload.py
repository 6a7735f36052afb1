"""Python source: as it comes, and in its file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from app_loader.storage import Storage
from app_loader.workload_record import StoredSource
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.python_source import MAX_SOURCE, source_problem


async def python_source(chunks: AsyncIterator[bytes], expected_digest: bytes | None, size: int | None) -> bytes:
    """All of an upload. `size` and `expected_digest` are what the sender announced. Raises `RefusalError`."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > MAX_SOURCE:
            raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"a program in Python has at most {MAX_SOURCE} bytes")
    if size is not None and len(content) != size:
        raise RefusalError(ErrorCode.BODY_INCOMPLETE, f"expected {size} bytes, received {len(content)}")
    digest = hashlib.sha256(content)
    if expected_digest is not None and digest.digest() != expected_digest:
        raise RefusalError(
            ErrorCode.WORKLOAD_DIGEST_MISMATCH,
            f"expected SHA-256 {expected_digest.hex()}, received {digest.hexdigest()}",
            remedy="send the file again; it changed on its way or since its digest was made",
        )
    if problem := source_problem(bytes(content)):
        raise RefusalError(ErrorCode.WORKLOAD_INVALID, problem)
    return bytes(content)


def store_source(storage: Storage, folder: Path, source: bytes) -> StoredSource:
    """Write it to a new file, which is on disk then. Raises `OSError`."""
    name = os.urandom(8).hex()
    path = folder / f"{name}.py"
    with path.open("xb", buffering=0) as file:
        writer = storage.writer(file.fileno(), path)
        writer.write(source)
        writer.finish()
        os.fsync(file.fileno())
    return StoredSource(name, hashlib.sha256(source).hexdigest(), len(source))


def stored_source(storage: Storage, folder: Path, stored: StoredSource) -> str:
    """The program, if it is what was stored. Raises `RefusalError`."""
    path = folder / f"{stored.name}.py"
    try:
        with path.open("rb", buffering=0) as file:
            content = b"".join(iter(storage.reader(file.fileno(), path).read, b""))
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != stored.digest:
        raise RefusalError(ErrorCode.WORKLOAD_EMPTY, "the source of this keep is damaged", remedy="upload it again")
    return content.decode()
