"""Decrypts flattened JWE (RFC 7516, section 7.2.2) as key brokers send it: A256GCM, and two ways to wrap its key."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from keep_attestation.key_release.errors import MalformedReplyError
from keep_protocol.strict_json import decode_strictly

RSA_OAEP_256 = "RSA-OAEP-256"
ECDH_ES_A256KW = "ECDH-ES+A256KW"
A256GCM = "A256GCM"
MAX_SIZE = 1024 * 1024

_KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16


class PublicKey(msgspec.Struct, frozen=True):
    """A public key of P-256 as a JWK (RFC 7518, section 6.2.1); other members are ignored."""

    kty: str
    crv: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protected header. RFC 7515 would have unknown members ignored; here they are refused, as `zip` and `crit`."""

    alg: str
    enc: str
    epk: PublicKey | None = None
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

    header: _Header
    authenticated: bytes
    """The protected header as it came: the additional data of AES-GCM."""
    encrypted_key: bytes
    nonce: bytes
    ciphertext: bytes
    tag: bytes


def parse_flattened_jwe(data: bytes) -> FlattenedJwe:
    """Raises `MalformedReplyError`; for algorithms that are not accepted with their names."""
    if len(data) > MAX_SIZE:
        raise MalformedReplyError(f"the JWE has {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        message = decode_strictly(data, _Flattened)
        header = decode_strictly(decode_base64url(message.protected), _Header)
    except msgspec.DecodeError as error:
        raise MalformedReplyError(f"the reply is no flattened JWE: {error}") from None
    if header.alg not in (RSA_OAEP_256, ECDH_ES_A256KW):
        raise MalformedReplyError(f"the JWE wraps its key with {header.alg!r}, which is not accepted")
    if header.enc != A256GCM:
        raise MalformedReplyError(f"the JWE is encrypted with {header.enc!r}, which is not accepted")
    parts = FlattenedJwe(
        header=header,
        authenticated=message.protected.encode(),
        encrypted_key=decode_base64url(message.encrypted_key),
        nonce=decode_base64url(message.iv),
        ciphertext=decode_base64url(message.ciphertext),
        tag=decode_base64url(message.tag),
    )
    if len(parts.nonce) != _NONCE_SIZE or len(parts.tag) != _TAG_SIZE:
        raise MalformedReplyError("the JWE has a nonce or a tag of another size than A256GCM demands")
    return parts


def decrypt_flattened_jwe(data: bytes, private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """The plaintext of a JWE for `private_key`. Raises `MalformedReplyError`."""
    message = parse_flattened_jwe(data)
    wanted = RSA_OAEP_256 if isinstance(private_key, rsa.RSAPrivateKey) else ECDH_ES_A256KW
    if message.header.alg != wanted:
        # The sender must not choose what the key is used for.
        raise MalformedReplyError(f"the JWE wraps its key with {message.header.alg!r}; the key is for {wanted!r}")
    try:
        if isinstance(private_key, rsa.RSAPrivateKey):
            oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
            content_key = private_key.decrypt(message.encrypted_key, oaep)
        else:
            content_key = aes_key_unwrap(_agreed_key(message.header, private_key), message.encrypted_key)
        if len(content_key) != _KEY_SIZE:
            raise ValueError("the content key has another size")
        return AESGCM(content_key).decrypt(message.nonce, message.ciphertext + message.tag, message.authenticated)
    except (ValueError, InvalidTag, InvalidUnwrap):
        # One message for all: which step failed would tell forgers of ciphertexts about the plaintext.
        raise MalformedReplyError("the JWE cannot be decrypted with this recipient's key") from None


def concat_kdf(secret: bytes, algorithm: str, apu: bytes, apv: bytes, size: int) -> bytes:
    """The key of `size` bytes that ECDH-ES derives (RFC 7518, section 4.6.2; NIST SP 800-56A, 5.8.1)."""
    other = b"".join(len(part).to_bytes(4, "big") + part for part in (algorithm.encode(), apu, apv))
    return ConcatKDFHash(hashes.SHA256(), size, other + (size * 8).to_bytes(4, "big")).derive(secret)


def decode_base64url(text: str) -> bytes:
    """Unpadded base64url (RFC 7515, section 2). Raises `MalformedReplyError`."""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedReplyError("the reply holds something that is not base64url") from None
    if encode_base64url(octets) != text:
        raise MalformedReplyError("the reply holds base64url with padding or stray bits")
    return octets


def encode_base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _agreed_key(header: _Header, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    if header.epk is None or (header.epk.kty, header.epk.crv) != ("EC", "P-256"):
        raise MalformedReplyError("the JWE has no ephemeral key of P-256")
    x, y = decode_base64url(header.epk.x), decode_base64url(header.epk.y)
    if len(x) != 32 or len(y) != 32:
        raise MalformedReplyError("the ephemeral key of the JWE has coordinates of another size than 32 bytes")
    # Raises ValueError for a point that is not on the curve.
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    secret = private_key.exchange(ec.ECDH(), ephemeral)
    return concat_kdf(secret, header.alg, decode_base64url(header.apu), decode_base64url(header.apv), _KEY_SIZE)
