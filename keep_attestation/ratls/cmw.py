"""Reads RATS conceptual message wrappers (RFC 9999): records and collections, in CBOR and JSON, from hostile hands."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from asn1crypto import core

from keep_attestation.cbor import decode_cbor
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_protocol.cmw import COLLECTION_TYPE_KEY, Indicator

MAX_SIZE = 1024 * 1024
_MAX_MEMBERS = 32
_MAX_DEPTH = 4
"""Collections may hold collections; nobody needs more levels."""
_ALL_INDICATORS = sum(Indicator)


@dataclass(frozen=True, slots=True)
class Record:
    """One conceptual message: `[type, value, ind]` (RFC 9999, section 3.1)."""

    media_type: str | int
    """A media type, or the number of a CoAP content format."""
    value: bytes
    indicator: Indicator | None
    """None where the record does not say."""


@dataclass(frozen=True, slots=True)
class WrapperCollection:
    """Several messages by label (RFC 9999, section 3.3)."""

    collection_type: str | None
    """A URI or a dotted OID."""
    members: Mapping[str | int, Record | WrapperCollection]


Wrapper: TypeAlias = Record | WrapperCollection


def decode_extension(value: bytes) -> tuple[Wrapper, bytes]:
    """The wrapper in the value of id-pe-cmw (RFC 9999, section 6.2), and its own bytes without the DER around them.

    Raises `MalformedEvidenceError`.
    """
    if len(value) > MAX_SIZE:
        raise MalformedEvidenceError(f"id-pe-cmw has {len(value)} bytes; at most {MAX_SIZE} are read")
    tag = value[:1]
    try:
        if tag == b"\x04":
            octets: bytes = core.OctetString.load(value, strict=True).native
            return decode_cbor_wrapper(octets), octets
        if tag == b"\x0c":
            text: str = core.UTF8String.load(value, strict=True).native
            return decode_json_wrapper(text), text.encode()
    except (ValueError, TypeError) as error:
        raise MalformedEvidenceError(f"id-pe-cmw is not well-formed DER: {error}") from None
    raise MalformedEvidenceError("id-pe-cmw is neither an OCTET STRING (cbor) nor a UTF8String (json)")


def decode_cbor_wrapper(data: bytes) -> Wrapper:
    """A record or collection in CBOR. Raises `MalformedEvidenceError`; the tag form of records is unsupported."""
    if len(data) > MAX_SIZE:
        raise MalformedEvidenceError(f"a wrapper has {len(data)} bytes; at most {MAX_SIZE} are read")
    if data[:1] and data[0] >> 5 == 6:
        raise UnsupportedEvidenceError("a conceptual message in the form of a CBOR tag is not accepted, only records")
    return _wrapper(decode_cbor(data, "a conceptual message wrapper"), _octets, 0)


def decode_json_wrapper(text: str) -> Wrapper:
    """A record or collection in JSON, values in base64url. Raises `MalformedEvidenceError`."""
    try:
        item = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"a conceptual message wrapper is not well-formed JSON: {error}") from None
    return _wrapper(item, _base64url, 0)


def _wrapper(item: Any, value_of: Callable[[Any], bytes], depth: int) -> Wrapper:
    if isinstance(item, list):
        return _record(item, value_of)
    if not isinstance(item, dict):
        raise MalformedEvidenceError("a conceptual message wrapper is neither a record nor a collection")
    if depth == _MAX_DEPTH or len(item) > _MAX_MEMBERS:
        raise MalformedEvidenceError(
            f"a collection is nested deeper than {_MAX_DEPTH} levels or has more than {_MAX_MEMBERS} members"
        )
    collection_type = item.pop(COLLECTION_TYPE_KEY, None)
    if collection_type is not None and not isinstance(collection_type, str):
        raise MalformedEvidenceError("the type of a collection is no text")
    if not item:
        raise MalformedEvidenceError("a collection is empty")
    members: dict[str | int, Wrapper] = {}
    for label, member in item.items():
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise MalformedEvidenceError("a label of a collection is neither text nor a number")
        members[label] = _wrapper(member, value_of, depth + 1)
    return WrapperCollection(collection_type, members)


def _record(item: list[Any], value_of: Callable[[Any], bytes]) -> Record:
    if not 2 <= len(item) <= 3:
        raise MalformedEvidenceError(f"a record has {len(item)} members, not a type, a value and perhaps an indicator")
    media_type = item[0]
    if type(media_type) is int:
        if not 0 <= media_type <= 0xFFFF:
            raise MalformedEvidenceError("the type of a record is no CoAP content format")
    elif not isinstance(media_type, str) or not 1 <= len(media_type) <= 255:
        raise MalformedEvidenceError("the type of a record is neither a media type nor a content format")
    return Record(media_type, value_of(item[1]), _indicator(item[2]) if len(item) == 3 else None)


def _indicator(value: Any) -> Indicator:
    if type(value) is not int or not 0 < value <= 0xFFFF_FFFF:
        raise MalformedEvidenceError("the indicator of a record is no set of bits")
    if value & ~_ALL_INDICATORS:
        raise UnsupportedEvidenceError(f"the indicator of a record has unknown bits: {value:#x}")
    return Indicator(value)


def _octets(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedEvidenceError("the value of a record is no byte string")
    return value


def _base64url(value: Any) -> bytes:
    if not isinstance(value, str):
        raise MalformedEvidenceError("the value of a record is no base64url text")
    try:
        octets = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidenceError("the value of a record is not well-formed base64url") from None
    # Padding and stray bits would make several texts of one value.
    if base64.urlsafe_b64encode(octets).rstrip(b"=") != value.encode():
        raise MalformedEvidenceError("the value of a record is not in unpadded base64url")
    return octets


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
