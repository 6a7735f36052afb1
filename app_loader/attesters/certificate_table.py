"""The certificate table that AMD hosts hand to guests beside a report (GHCB specification, 4.1.8.1)."""

from __future__ import annotations

import struct
from typing import Final
from uuid import UUID

from app_loader.errors import AttesterError
from keep_protocol.cmw import encode_endorsements

_ENTRY: Final = struct.Struct("<16sII")
_END: Final = bytes(16)
_CERTIFICATES: Final = frozenset(
    UUID(text).bytes
    for text in (
        "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK or ASVK
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
    )
)


def endorsements_of_table(table: bytes) -> bytes:
    """The table's certificates, encoded for a collection. They are the host's word: verifiers check them.

    Raises `AttesterError` for a table that is none.
    """
    certificates: list[bytes] = []
    position = 0
    while True:
        if position + _ENTRY.size > len(table):
            raise AttesterError("the host's certificate table has no end")
        identifier, offset, size = _ENTRY.unpack_from(table, position)
        if identifier == _END:
            return encode_endorsements(certificates=certificates)
        if offset + size > len(table):
            raise AttesterError("the host's certificate table points behind its end")
        if identifier in _CERTIFICATES:
            certificates.append(table[offset : offset + size])
        position += _ENTRY.size
