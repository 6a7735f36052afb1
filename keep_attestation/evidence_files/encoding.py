"""Undoes what people do to binary files: hex and base64."""

from __future__ import annotations

import base64
import binascii
import re

_HEX = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_SHORTEST = 64
"""Characters from which text is taken for encoded bytes: shorter words are words."""


def octets_of(data: bytes) -> bytes:
    """The bytes that `data` is the hex or base64 text of, or `data` itself."""
    text = b"".join(data.split()) if data.isascii() else b""
    # PEM without its spaces is base64url from end to end.
    if len(text) < _SHORTEST or text.startswith(b"-----"):
        return data
    if match := _HEX.fullmatch(text):
        return bytes.fromhex(match[1].decode())
    if _BASE64.fullmatch(text):
        standard = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
        except binascii.Error:
            return data
    return data
