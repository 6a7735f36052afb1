"""CBOR from hostile hands, decoded strictly (RFC 8949)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import cbor2

from keep_attestation.errors import MalformedEvidenceError

_MAX_DEPTH = 16


class _NoTags(Mapping[int, Callable[[Any, bool], Any]]):
    """Stands for all tags: cbor2 decodes many by itself, and 4 and 5 (bignum exponents) and 28 and 29 (cycles) are
    a few bytes that cost a lot."""

    def __getitem__(self, tag: int) -> Callable[[Any, bool], Any]:
        def refuse(value: Any, immutable: bool) -> NoReturn:
            raise ValueError(f"tag {tag} has no place here")

        return refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


_NO_TAGS = _NoTags()


def decode_cbor(data: bytes, name: str, *, allow_indefinite: bool = False) -> Any:
    """The one item in `data`, called `name` in errors: integers, floats, bytes, text, None, booleans, lists, dicts.

    Refused: bytes after it, duplicate keys, nesting below 16 levels, every tag, and indefinite lengths unless allowed.
    Raises `MalformedEvidenceError`.
    """
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream,
        # Reads no further than the item, so that what follows it is seen.
        read_size=1,
        semantic_decoders=_NO_TAGS,
        max_depth=_MAX_DEPTH,
        allow_indefinite=allow_indefinite,
        allow_duplicate_keys=False,
    )
    try:
        item = decoder.decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        reason = error.__cause__ or error
        raise MalformedEvidenceError(f"{name}: no well-formed CBOR: {reason}") from None
    if stream.tell() != len(data):
        raise MalformedEvidenceError(f"{name}: {len(data) - stream.tell()} bytes follow the CBOR item")
    return item


def strip_tag(data: bytes, tag: int) -> bytes | None:
    """What follows `tag` (24 to 65535, or below 24) at the start of `data`; None if it begins otherwise."""
    for head in (bytes([0xC0 | tag]) if tag < 24 else b"", _tag_head(tag)):
        if head and data.startswith(head):
            return data[len(head) :]
    return None


def _tag_head(tag: int) -> bytes:
    if tag < 256:
        return bytes([0xD8, tag])
    return b"\xd9" + tag.to_bytes(2, "big")
