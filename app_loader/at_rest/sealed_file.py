"""A sealed file: a header, then chunks of AES-256-GCM as in STREAM (Hoang et al., "Online Authenticated-Encryption").

Each chunk's nonce has its number and whether it is the last. With a key of its own for each file, a chunk opens only
where it was written: not elsewhere in its file, not in another, and a file that is cut off has no last one.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from app_loader.at_rest.file_keys import HEADER, FileKey
from app_loader.errors import LibcryptoError
from app_loader.libcrypto_aead import TAG_SIZE, AuthenticationError, decrypt, encrypt, encrypt_in_place
from app_loader.sealing.errors import DamagedFileError, SealingError
from app_loader.storage import write_all

MAGIC: Final = b"KSF1"
CHUNK: Final = 256 * 1024
"""Bytes of content in each chunk but the last, which has 0 to as many."""

_STORED: Final = CHUNK + TAG_SIZE
_NONCE: Final = struct.Struct("!3xQ?")


def content_size(stored: int) -> int:
    """Bytes of content of a sealed file that has so many; 0 for none that could be one."""
    body = max(stored - HEADER.size, 0)
    return max(body - -(-body // _STORED) * TAG_SIZE, 0)


class SealedWriter:
    """Seals what is written; holds one chunk."""

    def __init__(self, descriptor: int, key: FileKey) -> None:
        self._descriptor = descriptor
        self._key = key
        self._pending = bytearray(_STORED)
        """A chunk, and room for its tag: it is sealed where it lies."""
        self._size = 0
        self._chunks = 0

    def write(self, content: bytes) -> None:
        """Raises `OSError`, `SealingError`."""
        left = memoryview(content)
        while left:
            # A full chunk waits for more, because it may be the last.
            if self._size == CHUNK:
                self._seal(last=False)
            taken = min(CHUNK - self._size, len(left))
            self._pending[self._size : self._size + taken] = left[:taken]
            self._size += taken
            left = left[taken:]

    def finish(self) -> None:
        """Raises `OSError`, `SealingError`."""
        self._seal(last=True)

    def _seal(self, *, last: bool) -> None:
        try:
            nonce = _NONCE.pack(self._chunks, last)
            encrypt_in_place(self._key.secret, nonce, self._pending, self._size, self._key.header)
        except LibcryptoError as error:
            raise _not_encrypted(error) from None
        if self._chunks == 0:
            write_all(self._descriptor, self._key.header)
        with memoryview(self._pending) as sealed:
            write_all(self._descriptor, sealed[: self._size + TAG_SIZE])
        self._chunks += 1
        self._size = 0


class SealedReader:
    """Opens chunk by chunk. What is cut off is refused before anything is given."""

    def __init__(self, descriptor: int, key: FileKey) -> None:
        """Raises `OSError`, `SealingError`."""
        self._descriptor = descriptor
        self._key = key
        stored = os.fstat(descriptor).st_size
        self.size = content_size(stored)
        self._last = max(-(-(stored - HEADER.size) // _STORED) - 1, 0)
        self._next = 0
        # Only the last chunk tells that it is the last. One is kept, so that short files are opened once.
        self._end = self._open(self._last)

    def read(self) -> bytes:
        """The next chunk's content; empty at the end. Raises `OSError`, `SealingError`."""
        if self._next > self._last:
            return b""
        number, self._next = self._next, self._next + 1
        return self._end if number == self._last else self._open(number)

    def _open(self, number: int) -> bytes:
        sealed = os.pread(self._descriptor, _STORED, HEADER.size + number * _STORED)
        return open_chunk(self._key, number, sealed, last=number == self._last)


def seal_chunk(key: FileKey, number: int, content: bytes, *, last: bool) -> bytes:
    """A chunk as it is stored. Raises `SealingError`."""
    try:
        return encrypt(key.secret, _NONCE.pack(number, last), content, key.header)
    except LibcryptoError as error:
        raise _not_encrypted(error) from None


def _not_encrypted(error: LibcryptoError) -> SealingError:
    return SealingError(f"OpenSSL does not encrypt: {error}")


def open_chunk(key: FileKey, number: int, sealed: bytes, *, last: bool) -> bytes:
    """A chunk's content. Raises `SealingError`."""
    try:
        return decrypt(key.secret, _NONCE.pack(number, last), sealed, key.header)
    except AuthenticationError:
        raise DamagedFileError("it was changed, cut off, or put in another's place") from None
    except LibcryptoError as error:
        raise SealingError(f"OpenSSL does not decrypt: {error}") from None
