"""The envelope: `KSE1`, the header's length (4 bytes, big endian), the header in RFC 8785 JSON, AES-256-GCM.

All before the ciphertext is authenticated with it. The key is made for this one envelope, from a root key, 32 random
bytes of salt and the purpose, so that a random nonce of 96 bits is never used twice with a key.
"""

from __future__ import annotations

import binascii
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from app_loader.errors import LibcryptoError
from app_loader.libcrypto_aead import NONCE_SIZE, TAG_SIZE, AuthenticationError, decrypt, encrypt, hkdf_sha256
from app_loader.sealing.errors import MalformedEnvelopeError, SealingError, UnknownVersionError, UnsealError
from keep_protocol.sealing_api import MAX_COUNTER, PURPOSE_PATTERN, CounterSource, KeyKind, Selector
from keep_protocol.strict_json import decode_strictly

MAGIC: Final = b"KSE1"
VERSION: Final = 1
MAX_HEADER: Final = 2048
"""Bytes; the longest that is written here has fewer than 700."""

_PREFIX_SIZE: Final = len(MAGIC) + 4
_SALT_SIZE: Final = 32
_INFO: Final = b"keep-seal-v1|"
_CREATED: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_KEY_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

_E = TypeVar("_E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Label:
    """What is written on an envelope for all to read."""

    kind: KeyKind
    key_id: str
    """32 hex digits."""
    selectors: tuple[Selector, ...]
    purpose: str
    counter: int | None
    created: str
    """RFC 3339 in UTC, with milliseconds."""
    counted_by_machine: CounterSource | None = None
    """Which counter of the machine `counter` is; None for the caller's own."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope that was parsed, and not verified."""

    label: Label
    salt: bytes
    nonce: bytes
    authenticated: bytes
    """All before the ciphertext."""
    ciphertext: bytes


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    v: int
    kind: str
    purpose: Annotated[str, msgspec.Meta(pattern=PURPOSE_PATTERN)]
    key_id: str
    selectors: tuple[str, ...]
    salt: str
    nonce: str
    counter: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)] | None
    created: str
    counted_by: str | None = None
    """Only where a machine's counter gave `counter`."""


class _Version(msgspec.Struct, frozen=True):
    v: int


def seal(root: bytes, data: bytes, label: Label) -> bytes:
    """`data` in an envelope. `root` is what the root key has derived for the label's selectors."""
    salt, nonce = os.urandom(_SALT_SIZE), os.urandom(NONCE_SIZE)
    header = _Header(
        v=VERSION,
        kind=label.kind.value,
        purpose=label.purpose,
        key_id=label.key_id,
        selectors=tuple(selector.value for selector in label.selectors),
        salt=_base64(salt),
        nonce=_base64(nonce),
        counter=label.counter,
        created=label.created,
        counted_by=None if label.counted_by_machine is None else label.counted_by_machine.value,
    )
    authenticated = _authenticated(header)
    try:
        return authenticated + encrypt(_key(root, salt, label.purpose), nonce, data, authenticated)
    except LibcryptoError as error:
        raise SealingError(f"OpenSSL does not encrypt: {error}") from None


def unseal(root: bytes, envelope: Envelope) -> bytes:
    """The data. Raises `UnsealError`."""
    key = _key(root, envelope.salt, envelope.label.purpose)
    try:
        return decrypt(key, envelope.nonce, envelope.ciphertext, envelope.authenticated)
    except AuthenticationError:
        raise UnsealError(
            "the envelope was changed, or what it is bound to is not what this keep is:"
            f" {', '.join(envelope.label.selectors)}"
        ) from None
    except LibcryptoError as error:
        raise SealingError(f"OpenSSL does not decrypt: {error}") from None


def parse(sealed: bytes) -> Envelope:
    """Take an envelope apart, strictly: only what `seal` could have written. Raises `MalformedEnvelopeError`."""
    if sealed[: len(MAGIC)] != MAGIC:
        raise MalformedEnvelopeError(f"an envelope begins with {MAGIC.decode()}")
    size = int.from_bytes(sealed[len(MAGIC) : _PREFIX_SIZE], "big")
    end = _PREFIX_SIZE + size
    if size > MAX_HEADER or len(sealed) < end + TAG_SIZE:
        raise MalformedEnvelopeError("the envelope is cut off, or its header is longer than any")
    authenticated = sealed[:end]
    header = _decode(authenticated[_PREFIX_SIZE:])
    label = Label(
        _member(KeyKind, header.kind, "kind of key"),
        header.key_id,
        tuple(_member(Selector, name, "selector") for name in header.selectors),
        header.purpose,
        header.counter,
        header.created,
        None if header.counted_by is None else _member(CounterSource, header.counted_by, "counter"),
    )
    if not _KEY_ID.fullmatch(label.key_id):
        raise MalformedEnvelopeError("`key_id` is 32 hex digits")
    if not label.selectors or tuple(sorted(set(label.selectors))) != label.selectors:
        raise MalformedEnvelopeError("`selectors` are sorted, each once, and at least one")
    if not _CREATED.fullmatch(label.created):
        raise MalformedEnvelopeError("`created` is a time in UTC with milliseconds")
    if label.counted_by_machine is CounterSource.OWNER or (label.counted_by_machine and label.counter is None):
        raise MalformedEnvelopeError("`counted_by` is for counters of machines alone")
    if _authenticated(header) != authenticated:
        raise MalformedEnvelopeError("the header is not in the canonical form of RFC 8785")
    salt, nonce = _decoded(header.salt, _SALT_SIZE, "salt"), _decoded(header.nonce, NONCE_SIZE, "nonce")
    return Envelope(label, salt, nonce, authenticated, sealed[end:])


def _decode(raw: bytes) -> _Header:
    try:
        version = decode_strictly(raw, _Version).v
        if version != VERSION:
            raise UnknownVersionError(f"version {version} of the envelope is not known here, only {VERSION}")
        return decode_strictly(raw, _Header)
    except msgspec.DecodeError as error:
        raise MalformedEnvelopeError(f"the header is malformed: {error}") from None


def _authenticated(header: _Header) -> bytes:
    # RFC 8785: all keys and texts are ASCII without control characters, so sorting the keys is all that is left to do.
    encoded = msgspec.json.encode(header, order="sorted")
    return MAGIC + len(encoded).to_bytes(4, "big") + encoded


def _key(root: bytes, salt: bytes, purpose: str) -> bytes:
    return hkdf_sha256(root, salt=salt, info=_INFO + purpose.encode())


def _member(of: type[_E], text: str, what: str) -> _E:
    try:
        return of(text)
    except ValueError:
        raise MalformedEnvelopeError(f"{what} {text[:32]!a} is not known here, only {', '.join(of)}") from None


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decoded(text: str, size: int, name: str) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = b""
    if len(data) != size or _base64(data) != text:
        raise MalformedEnvelopeError(f"`{name}` is {size} bytes in base64")
    return data
