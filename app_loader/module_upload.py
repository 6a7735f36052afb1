"""An uploaded module, from the connection to its file."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from app_loader.storage import Storage
from app_loader.workload_modules import storing
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.webassembly import header


async def receive_module(
    chunks: AsyncIterator[bytes],
    path: Path,
    storage: Storage,
    limit: int,
    *,
    expected_digest: bytes | None,
    size: int | None,
) -> tuple[str, int]:
    """Digest in hex and size of what is then in the new file `path`, not yet synced. Raises `RefusalError`.

    `size` and `expected_digest` are what the sender announced, `limit` is in bytes.
    """
    digest = hashlib.sha256()
    received = 0
    head = b""
    with storing():
        file = path.open("xb", buffering=0)
    with file:
        writer = storage.writer(file.fileno(), path)
        # The sender's errors are OSErrors too, so only what is ours is taken for the disk's.
        async for chunk in chunks:
            received += len(chunk)
            if received > limit:
                raise too_large(limit)
            if len(head) < header.HEADER_SIZE:
                head = (head + chunk)[: header.HEADER_SIZE]
                if len(head) == header.HEADER_SIZE:
                    _check_header(head)
            digest.update(chunk)
            with storing():
                writer.write(chunk)
        with storing():
            writer.finish()
    if size is not None and received != size:
        raise RefusalError(ErrorCode.BODY_INCOMPLETE, f"expected {size} bytes, received {received}")
    _check_header(head)
    if expected_digest is not None and digest.digest() != expected_digest:
        raise RefusalError(
            ErrorCode.WORKLOAD_DIGEST_MISMATCH,
            f"expected SHA-256 {expected_digest.hex()}, received {digest.hexdigest()}",
            remedy="send the file again; it changed on its way or since its digest was made",
        )
    return digest.hexdigest(), received


def too_large(limit: int) -> RefusalError:
    """For a module of more bytes than `limit`."""
    return RefusalError(ErrorCode.BODY_TOO_LARGE, f"the keep's spec limits a workload to {limit} bytes")


def _check_header(head: bytes) -> None:
    if reason := header.refusal(head):
        raise RefusalError(ErrorCode.WORKLOAD_INVALID, reason)
