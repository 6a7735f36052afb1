"""The frames of a data port read by hand, for tests that have recorded one: not by the code that wrote them."""

from __future__ import annotations

import struct
from collections import defaultdict

_HEADER = struct.Struct("!BxHI")
_DATA = 3

TLS_KINDS = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
"""RFC 8446, section 5.1."""


def carried(recording: bytes) -> dict[int, bytes]:
    """What each stream has carried in the direction that was recorded; a frame that is not whole yet is left out."""
    streams: dict[int, bytearray] = defaultdict(bytearray)
    position = 0
    while position + _HEADER.size <= len(recording):
        kind, length, stream = _HEADER.unpack_from(recording, position)
        position += _HEADER.size
        if position + length > len(recording):
            break
        if kind == _DATA:
            streams[stream] += recording[position : position + length]
        position += length
    return {stream: bytes(content) for stream, content in streams.items()}


def tls_records(content: bytes) -> list[str]:
    """The kinds of the TLS records that one direction of a connection is made of. Raises `ValueError` for others."""
    kinds = []
    position = 0
    while position < len(content):
        kind, version, length = struct.unpack_from("!BHH", content, position)
        if kind not in TLS_KINDS or version not in (0x0301, 0x0303) or length > 2**14 + 256:
            raise ValueError(f"no TLS record at byte {position}: {content[position : position + 16]!r}")
        position += 5 + length
        kinds.append(TLS_KINDS[kind])
    if position != len(content):
        raise ValueError("the connection ends within a TLS record")
    return kinds
