"""Undoes what people and their tools do to files: hex and base64, quotes around them, Unicode's marks."""

from __future__ import annotations

import base64
import binascii
import codecs
import re

_HEX = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_HEX_WITH_COLONS = re.compile(rb"(?:[0-9a-fA-F]{2}:)+[0-9a-fA-F]{2}")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""What Windows' editors and shells write before text."""
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_SHORTEST = 64
"""Characters from which text is taken for encoded bytes: shorter words are words."""


def octets_of(data: bytes) -> bytes:
    """The bytes that `data` is the hex or base64 text of, or `data` itself, without the mark that text may have."""
    data = _unmarked(data)
    text = b"".join(data.split()) if data.isascii() else b""
    if text[:1] == text[-1:] == b'"':
        text = text[1:-1]
    # PEM without its spaces is base64url from end to end.
    if len(text) < _SHORTEST or text.startswith(b"-----"):
        return data
    if _HEX_WITH_COLONS.fullmatch(text):
        return bytes.fromhex(text.replace(b":", b"").decode())
    if match := _HEX.fullmatch(text):
        return bytes.fromhex(match[1].decode())
    if _BASE64.fullmatch(text):
        standard = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
        except binascii.Error:
            return data
    return data


def _unmarked(data: bytes) -> bytes:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode("ascii")
            except UnicodeError:
                # Bytes that happen to begin so: the formats that are read are in ASCII.
                return data
    return data
