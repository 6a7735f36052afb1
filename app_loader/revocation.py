"""The host's revocation lists: `client-crl.pem` as it is now, read again whenever it changes."""

from __future__ import annotations

import binascii
import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

from app_loader.errors import LibcryptoError, RevocationError
from app_loader.libcrypto import RevocationList

CRL_FILE: Final = "client-crl.pem"
MAX_SIZE: Final = 8 * 1024 * 1024
"""Bytes of the file that are read; about 200 000 revoked certificates."""

_BLOCK: Final = rb"(?s)-----BEGIN X509 CRL-----\s(.*?)-----END X509 CRL-----"

_logger = logging.getLogger(__name__)


class Revocations:
    """What the host says is revoked. Nothing is believed before a list's signature is checked.

    A file that is missing or malformed is as good as no list, so it lets nobody in who needs one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self.generation = 0
        self.lists: tuple[RevocationList, ...] = ()

    def refresh(self) -> int:
        """Read the file again if it is another one than before; the number grows whenever it was."""
        try:
            now = _fingerprint(os.stat(self._path, follow_symlinks=False))
        except OSError:
            now = ()
        if now != self._seen:
            self._seen = now
            self.generation += 1
            try:
                self.lists = read_lists(self._path)
            except RevocationError as error:
                self.lists = ()
                _logger.warning("revocation lists are unusable: %s", error)
        return self.generation


def read_lists(path: Path) -> tuple[RevocationList, ...]:
    """All lists of a PEM file. Raises `RevocationError`."""
    try:
        # O_NONBLOCK: what the host put there may be a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RevocationError(f"{path.name}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RevocationError(f"{path.name} is no regular file")
    with open(descriptor, "rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise RevocationError(f"{path.name} has more than {MAX_SIZE} bytes")
    try:
        lists = tuple(RevocationList(_decode(block)) for block in re.findall(_BLOCK, content))
    except (binascii.Error, LibcryptoError) as error:
        raise RevocationError(f"{path.name}: {error}") from None
    if not lists:
        raise RevocationError(f"{path.name} holds no `X509 CRL` in PEM")
    return lists


def _decode(block: bytes) -> bytes:
    return binascii.a2b_base64(b"".join(block.split()), strict_mode=True)


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
