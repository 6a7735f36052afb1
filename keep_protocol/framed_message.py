"""The one message at the beginning of a stream of the machine's channel: a request, or its answer."""

from __future__ import annotations

import struct
from typing import Final

from keep_protocol.channel import StreamClosedError

_LENGTH: Final = struct.Struct("!I")


class FramedMessage:
    """The one message at the beginning of a stream: its length in 4 bytes, then so many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()

    def feed(self, data: bytes | memoryview) -> bytes | None:
        """The message once it is whole; `rest` has what came behind it. Raises `StreamClosedError` if it cannot be."""
        if not data:
            raise StreamClosedError("the stream ended within its first message")
        self._received += data
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > self._limit:
            raise StreamClosedError(f"a message has at most {self._limit} bytes, not {length}")
        end = _LENGTH.size + length
        return bytes(self._received[_LENGTH.size : end]) if len(self._received) >= end else None

    @property
    def size(self) -> int:
        """Bytes of it with its length."""
        return _LENGTH.size + int(_LENGTH.unpack_from(self._received)[0])

    @property
    def rest(self) -> bytes:
        """What came behind the message."""
        return bytes(self._received[self.size :])


def framed(message: bytes) -> bytes:
    """A message as `FramedMessage` takes it."""
    return _LENGTH.pack(len(message)) + message
