"""Bytes to upload: of known size and digest, readable again for a second attempt."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from keep_client.errors import InvalidArgumentError
from keep_protocol import libzstd
from keep_protocol.digests import content_digest

CHUNK = 256 * 1024

CODINGS = ("gzip", "zstd")
"""In which a workload may be sent."""

Progress = Callable[[int], None]
"""Gets the bytes sent so far, after every chunk; a second attempt starts at 0 again."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to upload. `digest` is SHA-256."""

    open: Callable[[], BinaryIO]
    size: int
    digest: bytes
    name: str
    coding: str | None = None
    """Its Content-Encoding."""
    content_digest: bytes | None = None
    """SHA-256 of what it is decoded to, if it has a coding."""

    @classmethod
    def from_file(cls, path: Path) -> Source:
        """A regular file; it is read once here for its digest. Raises `InvalidArgumentError`."""
        if not path.is_file():
            what = "is no file that can be sent" if path.exists() else "does not exist"
            raise InvalidArgumentError(f"{path} {what}")
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

    def compressed(self, coding: str) -> Source:
        """The same for uploads of workloads, coded as `gzip` or `zstd`; held in memory.

        Raises `InvalidArgumentError`.
        """
        with self.open() as file:
            content = file.read()
        data = _compress(content, coding)
        return Source(
            lambda: io.BytesIO(data), len(data), hashlib.sha256(data).digest(), self.name, coding, self.digest
        )

    @property
    def decoded_digest(self) -> bytes:
        """SHA-256 of the content, whether or not that is compressed."""
        return self.content_digest or self.digest

    @property
    def headers(self) -> dict[str, str]:
        """The header fields that announce it."""
        coding = {} if self.coding is None else {"content-encoding": self.coding}
        return {"content-length": str(self.size), "content-digest": content_digest(self.digest), **coding}

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


def _compress(content: bytes, coding: str) -> bytes:
    if coding == "gzip":
        return gzip.compress(content, mtime=0)
    if coding != "zstd":
        raise InvalidArgumentError(f"{coding!r} is no coding of uploads: there are {', '.join(CODINGS)}")
    try:
        return libzstd.compress(content)
    except libzstd.ZstdUnavailableError as error:
        raise InvalidArgumentError(f"{error}: use gzip") from None
