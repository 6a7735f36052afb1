"""The key of each file at rest: made of a root key of the keep, 32 random bytes in the file's header, and its path."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app_loader.libcrypto_aead import hkdf_sha256
from app_loader.sealing.errors import DamagedFileError
from app_loader.sealing.root_keys import KeyRing
from keep_protocol.sealing_api import KeyKind

HEADER: Final = struct.Struct("!4s4s16s32s8x")
"""What the file is, the kind of its root key, that key's id, salt, and nothing."""

_INFO: Final = b"keep-rest-v1|"


@dataclass(frozen=True, slots=True)
class FileKey:
    """The AES-256 key of one file, and the header that tells how to make it again."""

    header: bytes
    secret: bytes


class FileKeys:
    """Makes keys of files; the root keys are asked for once."""

    def __init__(self, ring: Callable[[], KeyRing]) -> None:
        """`ring` gives the keep's root keys, or raises `SealingError`; it may take long."""
        self._find_ring = ring
        self._ring: KeyRing | None = None
        self._roots: dict[tuple[KeyKind, str], bytes] = {}
        """What a root key has derived; hardware is slow."""

    def unlock(self) -> None:
        """Have the key that new files get. Raises `SealingError`."""
        if not self._roots:
            newest = self._rings().newest()
            self._root(newest.kind, newest.id)

    def new(self, magic: bytes, path: bytes) -> FileKey:
        """For a new file at `path`. Raises `SealingError`."""
        newest = self._rings().newest()
        header = HEADER.pack(magic, newest.kind.value.encode(), bytes.fromhex(newest.id), os.urandom(32))
        return self._derive(newest.kind, newest.id, header, path)

    def of(self, magic: bytes, header: bytes, path: bytes) -> FileKey:
        """For the file at `path` that begins with `header`. Raises `SealingError`."""
        if len(header) != HEADER.size:
            raise DamagedFileError("it is cut off")
        found, kind, key_id, _ = HEADER.unpack(header)
        try:
            root_kind = KeyKind(kind.rstrip(b"\0").decode("ascii"))
        except ValueError:
            root_kind = None
        if found != magic or root_kind is None:
            raise DamagedFileError("it is not sealed, or was changed")
        return self._derive(root_kind, key_id.hex(), header, path)

    def _derive(self, kind: KeyKind, key_id: str, header: bytes, path: bytes) -> FileKey:
        return FileKey(header, hkdf_sha256(self._root(kind, key_id), salt=header, info=_INFO + path))

    def _root(self, kind: KeyKind, key_id: str) -> bytes:
        if (kind, key_id) not in self._roots:
            root = self._rings().find(kind, key_id)
            self._roots[kind, key_id] = root.derive(root.usual)
        return self._roots[kind, key_id]

    def _rings(self) -> KeyRing:
        if self._ring is None:
            self._ring = self._find_ring()
        return self._ring
