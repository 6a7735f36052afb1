"""Tables of certificates as hosts make them for SNP guests."""

from __future__ import annotations

import struct
from uuid import UUID

VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")


def table_of(*entries: tuple[UUID, bytes]) -> bytes:
    """GHCB: GUID, offset and length per entry, a zero entry, then the certificates."""
    offset = (len(entries) + 1) * 24
    head, body = b"", b""
    for identifier, content in entries:
        head += identifier.bytes + struct.pack("<II", offset + len(body), len(content))
        body += content
    return head + bytes(24) + body
