"""A sealed symbolic link: on disk it is one too, and says in base64 where it leads, as a file of one chunk.

A link that the host makes would have a run read one sealed file for another, each of which opens in its own place.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from app_loader.at_rest.file_keys import HEADER, FileKeys
from app_loader.at_rest.sealed_file import open_chunk, seal_chunk
from app_loader.sealing.errors import DamagedFileError

MAGIC: Final = b"KSL1"
"""Not that of files: the content of a short one must not become where a link in its place leads."""

_ALPHABET: Final = b"-_"
"""Of base64url (RFC 4648, 5): with a slash it could be a path to something."""


def seal_link(keys: FileKeys, target: bytes, path: bytes) -> bytes:
    """What the link at `path` says on disk; too long for some file systems if `target` is. Raises `SealingError`."""
    key = keys.new(MAGIC, path)
    return base64.b64encode(key.header + seal_chunk(key, 0, target, last=True), _ALPHABET)


def open_link(keys: FileKeys, stored: bytes, path: bytes) -> bytes:
    """Where the link at `path` leads. Raises `SealingError`."""
    try:
        sealed = base64.b64decode(stored, _ALPHABET, validate=True)
    except binascii.Error:
        raise DamagedFileError("it is a link that is not sealed") from None
    key = keys.of(MAGIC, sealed[: HEADER.size], path)
    return open_chunk(key, 0, sealed[HEADER.size :], last=True)
