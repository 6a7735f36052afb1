"""Reads ASN.1 in DER and in BER of indefinite length (X.690, 8.1): all that CMS and public keys need, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app_loader.key_release.errors import MalformedReplyError

MAX_SIZE: Final = 64 * 1024
MAX_DEPTH: Final = 16

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30
SET: Final = 0x31

_CONSTRUCTED: Final = 0x20
_LONG_TAG: Final = 0x1F
_INDEFINITE: Final = 0x80
_END_OF_CONTENTS: Final = b"\0\0"
_MAX_LENGTH_OCTETS: Final = 4


@dataclass(frozen=True, slots=True)
class Element:
    """One element: `content` of a primitive one, `parts` of a constructed one."""

    tag: int
    """The identifier octet, with class and constructed bit."""
    content: bytes = b""
    parts: tuple[Element, ...] = ()

    @property
    def is_constructed(self) -> bool:
        return bool(self.tag & _CONSTRUCTED)


def parse_ber(data: bytes) -> Element:
    """The one element that `data` is. Lengths are definite and minimal, or indefinite. Raises `MalformedReplyError`."""
    if len(data) > MAX_SIZE:
        raise MalformedReplyError(f"there are {len(data)} bytes of ASN.1; at most {MAX_SIZE} are read")
    reader = _Reader(data)
    element = reader.element(len(data), 0)
    if reader.position != len(data):
        raise MalformedReplyError("there are bytes after the end of the ASN.1")
    return element


def context(number: int, *, constructed: bool) -> int:
    """The identifier octet of a context-specific tag."""
    return 0x80 | number | (_CONSTRUCTED if constructed else 0)


def octets(element: Element, what: str, *, implicit: int | None = None) -> bytes:
    """The content of an OCTET STRING, whole or in pieces; under the tag `[implicit]` if that is given.

    Raises `MalformedReplyError`.
    """
    primitive = OCTET_STRING if implicit is None else context(implicit, constructed=False)
    if element.tag == primitive:
        return element.content
    # A stream is cut into pieces, each an OCTET STRING of its own whatever the tag around them.
    if element.tag == primitive | _CONSTRUCTED and all(part.tag == OCTET_STRING for part in element.parts):
        return b"".join(part.content for part in element.parts)
    raise MalformedReplyError(f"{what} is no OCTET STRING")


def members(element: Element, what: str, tag: int = SEQUENCE) -> tuple[Element, ...]:
    """The parts of an element that must have this constructed tag. Raises `MalformedReplyError`."""
    if element.tag != tag:
        raise MalformedReplyError(f"{what} has the tag {element.tag:#04x}, not {tag:#04x}")
    return element.parts


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def element(self, end: int, depth: int) -> Element:
        """The element at the position, which must be over at `end`."""
        if depth > MAX_DEPTH:
            raise MalformedReplyError("the ASN.1 is nested too deeply")
        tag = self._octet(end)
        if tag & _LONG_TAG == _LONG_TAG:
            raise MalformedReplyError("the ASN.1 has a tag of more than one octet")
        length = self._length(end)
        if length is None:
            if not tag & _CONSTRUCTED:
                raise MalformedReplyError("a primitive element of the ASN.1 has no length")
            return Element(tag, parts=self._until_end_of_contents(end, depth))
        if length > end - self.position:
            raise MalformedReplyError("the ASN.1 is cut short")
        inner = self.position + length
        if not tag & _CONSTRUCTED:
            content = self._data[self.position : inner]
            self.position = inner
            return Element(tag, content)
        parts = []
        while self.position < inner:
            parts.append(self.element(inner, depth + 1))
        return Element(tag, parts=tuple(parts))

    def _until_end_of_contents(self, end: int, depth: int) -> tuple[Element, ...]:
        parts = []
        while self._data[self.position : min(self.position + 2, end)] != _END_OF_CONTENTS:
            parts.append(self.element(end, depth + 1))
        self.position += len(_END_OF_CONTENTS)
        return tuple(parts)

    def _length(self, end: int) -> int | None:
        first = self._octet(end)
        if first == _INDEFINITE:
            return None
        if first < _INDEFINITE:
            return first
        count = first & ~_INDEFINITE
        if count > _MAX_LENGTH_OCTETS:
            raise MalformedReplyError("a length in the ASN.1 has too many octets")
        length = 0
        for _ in range(count):
            length = length << 8 | self._octet(end)
        if length < 0x80 or length >> 8 * (count - 1) == 0:
            raise MalformedReplyError("a length in the ASN.1 is not minimal")
        return length

    def _octet(self, end: int) -> int:
        if self.position >= end:
            raise MalformedReplyError("the ASN.1 is cut short")
        octet = self._data[self.position]
        self.position += 1
        return octet
