"""Takes DER apart (X.690, 10): definite, shortest lengths, one-byte tags. Meaning is up to the caller.

Certificates are read on every connection; asn1crypto, which builds an object for each of their parts, takes five times
as long.
"""

from __future__ import annotations

from typing import Final

from keep_attestation.errors import MalformedCertificateError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30

_MAX_LENGTH_BYTES: Final = 4
_NAMES: Final = {
    BOOLEAN: "BOOLEAN",
    INTEGER: "INTEGER",
    BIT_STRING: "BIT STRING",
    OCTET_STRING: "OCTET STRING",
    OBJECT_IDENTIFIER: "OBJECT IDENTIFIER",
    UTC_TIME: "UTCTime",
    GENERALIZED_TIME: "GeneralizedTime",
    SEQUENCE: "SEQUENCE",
}


class DerReader:
    """Reads the elements in `data` one after the other. Every method raises `MalformedCertificateError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def ended(self) -> bool:
        return self._offset == len(self._data)

    def is_next(self, tag: int) -> bool:
        """Whether an element with this tag comes next."""
        return self._data[self._offset : self._offset + 1] == bytes([tag])

    def take(self, tag: int) -> bytes:
        """The content of the next element, which has this tag."""
        return self._next(tag)[1]

    def whole(self, tag: int) -> bytes:
        """The next element, which has this tag, as it stands."""
        return self._next(tag)[0]

    def both(self, tag: int) -> tuple[bytes, bytes]:
        """The next element as it stands, and its content."""
        return self._next(tag)

    def inside(self, tag: int) -> DerReader:
        """A reader of what is in the next element."""
        return DerReader(self._next(tag)[1])

    def end(self) -> None:
        """Nothing may follow."""
        if not self.ended:
            raise MalformedCertificateError(f"DER: {len(self._data) - self._offset} bytes follow where nothing should")

    def _next(self, tag: int) -> tuple[bytes, bytes]:
        data, start = self._data, self._offset
        if start + 2 > len(data) or data[start] != tag:
            came = _name(data[start]) if start < len(data) else "the end"
            raise MalformedCertificateError(f"DER: {_name(tag)} is expected, {came} came")
        length, content = data[start + 1], start + 2
        if length >= 0x80:
            count = length & 0x7F
            content += count
            length = int.from_bytes(data[start + 2 : content], "big")
            # The shortest form alone: two encodings of one certificate would be two certificates.
            if not 1 <= count <= _MAX_LENGTH_BYTES or length < 0x80 or length >> 8 * (count - 1) == 0:
                raise MalformedCertificateError("DER: a length is indefinite or not in its shortest form")
        end = content + length
        if end > len(data):
            raise MalformedCertificateError(f"DER: an element of {length} bytes is cut off")
        self._offset = end
        return data[start:end], data[content:end]


def _name(tag: int) -> str:
    return _NAMES.get(tag, f"tag {tag:#04x}")


def one(data: bytes, tag: int) -> bytes:
    """The content of the one element in `data`, which has this tag. Raises `MalformedCertificateError`."""
    reader = DerReader(data)
    content = reader.take(tag)
    reader.end()
    return content


def signed_integer(content: bytes) -> int:
    """What an INTEGER with this content is. Raises `MalformedCertificateError`."""
    if not content:
        raise MalformedCertificateError("DER: an INTEGER is empty")
    return int.from_bytes(content, "big", signed=True)
