"""`Content-Digest` (RFC 9530), the one digest that uploads carry."""

from __future__ import annotations

import binascii
import re

_SHA256 = r"(?a)sha-256\s*=\s*:([A-Za-z0-9+/=]*):"


class DigestHeaderError(ValueError):
    """A `Content-Digest` header has no well-formed `sha-256` member."""


def content_digest(digest: bytes) -> str:
    """The header value for a SHA-256 digest of 32 bytes."""
    return f"sha-256=:{binascii.b2a_base64(digest, newline=False).decode()}:"


def parse_content_digest(value: str) -> bytes:
    """The 32 bytes of the `sha-256` member; other algorithms beside it are ignored, as the RFC asks.

    Raises `DigestHeaderError`.
    """
    for member in value.split(","):
        if match := re.fullmatch(_SHA256, member.strip()):
            try:
                digest = binascii.a2b_base64(match[1], strict_mode=True)
            except binascii.Error as error:
                raise DigestHeaderError(f"Content-Digest is not base64: {error}") from None
            if len(digest) != 32:
                raise DigestHeaderError(f"Content-Digest: sha-256 has {len(digest)} bytes, not 32")
            return digest
    raise DigestHeaderError("Content-Digest has no member `sha-256=:BASE64:`")
