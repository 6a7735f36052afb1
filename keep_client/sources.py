"""Bytes to upload: of known size and digest, readable again for a second attempt."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from keep_client.errors import InvalidArgumentError
from keep_protocol.digests import content_digest

CHUNK = 256 * 1024

Progress = Callable[[int], None]
"""Gets the bytes sent so far, after every chunk; a second attempt starts at 0 again."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to upload. `digest` is SHA-256."""

    open: Callable[[], BinaryIO]
    size: int
    digest: bytes
    name: str

    @classmethod
    def from_file(cls, path: Path) -> Source:
        """A regular file; it is read once here for its digest. Raises `InvalidArgumentError`."""
        if not path.is_file():
            raise InvalidArgumentError(f"{path} is not a file that can be sent")
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                size = file.tell()
        except OSError as error:
            raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from error
        return cls(lambda: path.open("rb"), size, digest, str(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> Source:
        """Bytes in memory."""
        return cls(lambda: io.BytesIO(data), len(data), hashlib.sha256(data).digest(), "the upload")

    @property
    def headers(self) -> dict[str, str]:
        """The header fields that announce it."""
        return {"content-length": str(self.size), "content-digest": content_digest(self.digest)}

    def chunks(self, progress: Progress | None = None) -> Iterator[bytes]:
        """Its bytes. Raises `InvalidArgumentError` when the file has become shorter since."""
        sent = 0
        with self.open() as file:
            while sent < self.size:
                block = file.read(min(CHUNK, self.size - sent))
                if not block:
                    raise InvalidArgumentError(f"{self.name} became shorter while it was sent")
                yield block
                sent += len(block)
                if progress is not None:
                    progress(sent)

    async def async_chunks(self, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The same for asyncio; local files are read in the event loop."""
        for block in self.chunks(progress):
            yield block


def as_source(data: Path | bytes | Source) -> Source:
    """What callers may give, as a `Source`."""
    match data:
        case Source():
            return data
        case bytes():
            return Source.from_bytes(data)
        case Path():
            return Source.from_file(data)
