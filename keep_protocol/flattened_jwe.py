"""Reads flattened JWE (RFC 7516, section 7.2.2) as key brokers send it: A256GCM, and two ways to wrap its key."""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from keep_protocol.strict_json import decode_strictly

RSA_OAEP_256: Final = "RSA-OAEP-256"
ECDH_ES_A256KW: Final = "ECDH-ES+A256KW"
A256GCM: Final = "A256GCM"
MAX_SIZE: Final = 1024 * 1024
KEY_SIZE: Final = 32
"""Bytes of the content key, and of the key that wraps it."""

_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_COORDINATE_SIZE: Final = 32
_UNCOMPRESSED: Final = b"\x04"


class JweError(ValueError):
    """Something is not of the form that is accepted here; the message holds nothing of a key."""


class EphemeralKey(msgspec.Struct, frozen=True):
    """A public key of P-256 as a JWK (RFC 7518, section 6.2.1); other members are ignored."""

    kty: str
    crv: str
    x: str
    y: str


class JweHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protected header. RFC 7515 would have unknown members ignored; here they are refused, as `zip` and `crit`."""

    alg: str
    enc: str
    epk: EphemeralKey | None = None
    apu: str = ""
    apv: str = ""
    cty: str = ""
    kid: str = ""
    typ: str = ""


class _Flattened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protected: str
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str


@dataclass(frozen=True, slots=True)
class FlattenedJwe:
    """The parts of a JWE."""

    header: JweHeader
    authenticated: bytes
    """The protected header as it came: the additional data of AES-GCM."""
    encrypted_key: bytes
    nonce: bytes
    ciphertext: bytes
    tag: bytes


def read_flattened_jwe(data: bytes) -> FlattenedJwe:
    """The parts of a JWE. Raises `JweError`; for algorithms that are not accepted with their names."""
    if len(data) > MAX_SIZE:
        raise JweError(f"the JWE has {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        message = decode_strictly(data, _Flattened)
    except msgspec.DecodeError:
        # Without its reason, which may quote what stands there: that could be the secret itself, unencrypted.
        raise JweError("the reply is no flattened JWE") from None
    try:
        header = decode_strictly(decode_base64url(message.protected), JweHeader)
    except msgspec.DecodeError as error:
        raise JweError(f"the header of the JWE is not accepted: {error}") from None
    if header.alg not in (RSA_OAEP_256, ECDH_ES_A256KW):
        raise JweError(f"the JWE wraps its key with {header.alg[:32]!r}, which is not accepted")
    if header.enc != A256GCM:
        raise JweError(f"the JWE is encrypted with {header.enc[:32]!r}, which is not accepted")
    parts = FlattenedJwe(
        header=header,
        authenticated=message.protected.encode(),
        encrypted_key=decode_base64url(message.encrypted_key),
        nonce=decode_base64url(message.iv),
        ciphertext=decode_base64url(message.ciphertext),
        tag=decode_base64url(message.tag),
    )
    if len(parts.nonce) != _NONCE_SIZE or len(parts.tag) != _TAG_SIZE:
        raise JweError("the JWE has a nonce or a tag of another size than A256GCM demands")
    return parts


def ephemeral_point(header: JweHeader) -> bytes:
    """The sender's point for ECDH-ES, uncompressed (65 bytes); not yet known to be on the curve. Raises `JweError`."""
    if header.epk is None or (header.epk.kty, header.epk.crv) != ("EC", "P-256"):
        raise JweError("the JWE has no ephemeral key of P-256")
    x, y = decode_base64url(header.epk.x), decode_base64url(header.epk.y)
    if len(x) != _COORDINATE_SIZE or len(y) != _COORDINATE_SIZE:
        raise JweError(f"the ephemeral key of the JWE has coordinates of another size than {_COORDINATE_SIZE} bytes")
    return _UNCOMPRESSED + x + y


def agreed_key(secret: bytes, header: JweHeader) -> bytes:
    """The 32 bytes that wrap the content key, from the shared secret of ECDH-ES. Raises `JweError`."""
    return concat_kdf(secret, header.alg, decode_base64url(header.apu), decode_base64url(header.apv), KEY_SIZE)


def concat_kdf(secret: bytes, algorithm: str, apu: bytes, apv: bytes, size: int) -> bytes:
    """The key of at most 32 bytes that ECDH-ES derives (RFC 7518, section 4.6.2; NIST SP 800-56A, 5.8.1)."""
    other = b"".join(len(part).to_bytes(4, "big") + part for part in (algorithm.encode(), apu, apv))
    # One round gives as much as is ever wanted here.
    return hashlib.sha256(b"\0\0\0\x01" + secret + other + (size * 8).to_bytes(4, "big")).digest()[:size]


def decode_base64url(text: str) -> bytes:
    """Unpadded base64url (RFC 7515, section 2). Raises `JweError`."""
    try:
        standard = text.encode("ascii").translate(_TO_STANDARD, b"+/")
        octets = binascii.a2b_base64(standard + b"=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise JweError("the reply holds something that is not base64url") from None
    if encode_base64url(octets) != text:
        raise JweError("the reply holds base64url with padding or stray bits")
    return octets


def encode_base64url(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).translate(_FROM_STANDARD, b"=").decode()


_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_FROM_STANDARD: Final = bytes.maketrans(b"+/", b"-_")
