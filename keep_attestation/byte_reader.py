"""Reads fixed binary layouts without ever reading past their end."""

from __future__ import annotations

from typing import Literal

from keep_attestation.errors import MalformedEvidenceError


class ByteReader:
    """A cursor over `data`, called `name` in errors; reads raise `MalformedEvidenceError` when bytes are missing."""

    def __init__(self, data: bytes, name: str, order: Literal["little", "big"]) -> None:
        self._data = data
        self._name = name
        self._order = order
        self.offset = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self.offset

    def take(self, size: int) -> bytes:
        if size > self.remaining:
            raise MalformedEvidenceError(
                f"{self._name}: {size} bytes expected at offset {self.offset}, {self.remaining} are left"
            )
        piece = self._data[self.offset : self.offset + size]
        self.offset += size
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), self._order)

    def sized(self, width: int) -> bytes:
        """Bytes after their own length of `width` bytes, as a TPM2B (width 2)."""
        return self.take(self.integer(width))

    def end(self) -> None:
        """Raises `MalformedEvidenceError` unless everything was read: unchecked bytes belong to the attacker."""
        if self.remaining:
            raise MalformedEvidenceError(f"{self._name}: {self.remaining} bytes follow its end at offset {self.offset}")
