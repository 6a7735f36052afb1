"""Uploads with `Content-Encoding`: decoded as they come, never more than is wanted of them.

`Content-Digest` and Content-Length are of the bytes that are sent (RFC 9530, section 2; RFC 9110, section 8.6).
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

from app_loader.messages import ACCEPTED, CODING_FIELD
from keep_protocol import libzstd
from keep_protocol.errors import ErrorCode, RefusalError

_BLOCK: Final = 256 * 1024
_GZIP: Final = 31
"""`wbits` of zlib: a window of 32 KiB and the header of RFC 1952."""


class Decoder(Protocol):
    """Decodes one body. Close it."""

    @property
    def complete(self) -> bool:
        """Whether the bytes so far are a whole."""

    def decompress(self, content: bytes) -> Iterator[bytes]:
        """What `content` makes known, in pieces of bounded size. Raises `zlib.error`, `ZstdDataError`."""

    def close(self) -> None:
        """Free it."""


class _Gzip:
    """Members one after the other, RFC 1952, section 2.2."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)

    @property
    def complete(self) -> bool:
        return self._member.eof

    def decompress(self, content: bytes) -> Iterator[bytes]:
        while content:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            piece = self._member.decompress(content, _BLOCK)
            content = self._member.unconsumed_tail or self._member.unused_data
            # What is left in its window comes with no more input.
            while len(piece) == _BLOCK and not content and not self._member.eof:
                yield piece
                piece = self._member.decompress(b"", _BLOCK)
            if piece:
                yield piece

    def close(self) -> None:
        pass


_DECODERS: Final[dict[str, Callable[[], Decoder]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "zstd": libzstd.Decompressor,
}


def coding_of(header: str | None) -> str | None:
    """The coding that a Content-Encoding names, or None. Raises `RefusalError` (415) for what a keep cannot decode."""
    coding = (header or "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in _DECODERS:
        raise coding_refusal(f"Content-Encoding {coding[:100]!r} cannot be decoded here: a keep takes {ACCEPTED}")
    if coding == "zstd" and not libzstd.available():
        raise coding_refusal("this keep's system has no libzstd: send the body as gzip, or as it is")
    return coding


def coding_refusal(detail: str) -> RefusalError:
    """For a body that is coded as it must not be."""
    return RefusalError(ErrorCode.MEDIA_TYPE_UNSUPPORTED, detail, field=CODING_FIELD)


async def decoded(
    chunks: AsyncIterator[bytes], coding: str, *, limit: int, expected_digest: bytes | None, size: int | None
) -> AsyncIterator[bytes]:
    """The content of a coded body, in pieces of bounded size.

    `limit` is that of the sent bytes: an endless row of empty members has no content that could exceed another. Raises
    `RefusalError`, also at the end when the sent bytes are others than announced.
    """
    digest = hashlib.sha256()
    received = 0
    decoder = _DECODERS[coding]()
    try:
        async for chunk in chunks:
            received += len(chunk)
            if received > limit:
                raise RefusalError(
                    ErrorCode.BODY_TOO_LARGE, f"the body has more than {limit} bytes, even as it is sent"
                )
            digest.update(chunk)
            for piece in decoder.decompress(chunk):
                yield piece
                # A small chunk may have a large content: others are to be served meanwhile.
                await asyncio.sleep(0)
    except (zlib.error, libzstd.ZstdDataError) as error:
        raise RefusalError(
            ErrorCode.WORKLOAD_INVALID, f"the body cannot be decoded as {coding}: {error}", field="Content-Encoding"
        ) from None
    finally:
        complete = decoder.complete
        decoder.close()
    if not complete or (size is not None and received != size):
        raise RefusalError(
            ErrorCode.BODY_INCOMPLETE, f"the body ends within its {coding} stream, after {received} bytes"
        )
    if expected_digest is not None and digest.digest() != expected_digest:
        raise RefusalError(
            ErrorCode.WORKLOAD_DIGEST_MISMATCH,
            f"expected SHA-256 {expected_digest.hex()} of the body as it is sent, received {digest.hexdigest()}",
            remedy="Content-Digest is of the coded bytes (RFC 9530); send the file again if these are what you sent",
        )
