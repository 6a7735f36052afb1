"""Reads the elements of WebAssembly's binary formats: LEB128 numbers, names, sections."""

from __future__ import annotations

from collections.abc import Iterator

from keep_protocol.webassembly.errors import MalformedError

_MAX_LEB_BYTES = 10


class Reader:
    """A position in a part of a binary. Every method raises `MalformedError` at the part's end."""

    def __init__(self, content: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        self._content = content
        self._end = len(content) if end is None else end
        self.position = start

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.position >= self._end

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return self._end - self.position

    def byte(self) -> int:
        """The next byte."""
        if self.position >= self._end:
            raise MalformedError(f"it ends unexpectedly at byte {self.position}")
        value = self._content[self.position]
        self.position += 1
        return value

    def peek(self) -> int:
        """The next byte, which stays the next."""
        value = self.byte()
        self.position -= 1
        return value

    def unsigned(self) -> int:
        """A number in LEB128."""
        value = self.byte()
        if value < 0x80:
            return value
        value &= 0x7F
        for index in range(1, _MAX_LEB_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value
        raise MalformedError(f"a number is too long at byte {self.position}")

    def skip_number(self) -> None:
        """A number in LEB128, of either sign, that does not matter."""
        while self.byte() >= 0x80:
            pass

    def name(self) -> str:
        """A string with its length before it."""
        raw = self.take(self.unsigned())
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise MalformedError(f"a name is not UTF-8 before byte {self.position}") from None

    def take(self, size: int) -> bytes:
        """So many bytes."""
        start = self.position
        if size > self._end - start:
            raise MalformedError(f"it ends unexpectedly: {size} bytes were announced at byte {start}")
        self.position = start + size
        return bytes(self._content[start : self.position])

    def sections(self) -> Iterator[tuple[int, Reader]]:
        """The sections that follow, each with its id."""
        while not self.at_end:
            identifier = self.byte()
            size = self.unsigned()
            if size > self._end - self.position:
                raise MalformedError(f"section {identifier} at byte {self.position} is cut off")
            start = self.position
            self.position += size
            yield identifier, Reader(self._content, start, start + size)

    def count(self) -> int:
        """How many items follow; no item is smaller than a byte."""
        count = self.unsigned()
        if count > self._end - self.position:
            raise MalformedError(
                f"{count} items are announced at byte {self.position}, but there are not as many bytes"
            )
        return count
