"""Keys that live for one fetch: what a broker encrypts its reply to, as a JWK, and what opens the reply."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from app_loader.errors import LibcryptoError
from app_loader.key_release.ber import members, parse_ber
from app_loader.key_release.errors import MalformedReplyError
from app_loader.libcrypto_aead import decrypt
from app_loader.libcrypto_recipient import AgreementKey, RsaKey, unwrap_aes_256
from app_loader.secret_store import wipe
from keep_protocol.flattened_jwe import (
    ECDH_ES_A256KW,
    KEY_SIZE,
    RSA_OAEP_256,
    FlattenedJwe,
    JweError,
    agreed_key,
    encode_base64url,
    ephemeral_point,
    read_flattened_jwe,
)
from keep_protocol.secret_sources import BrokerKey

RSA_BITS: Final = 3072


class RecipientKey(Protocol):
    """A private key that nobody else has, and that is gone with this object."""

    algorithm: str
    """The `alg` of JWE that are for it."""

    def jwk(self) -> dict[str, str]:
        """The public half (RFC 7518, 6), which names what it is for."""
        ...

    def unwrap(self, message: FlattenedJwe) -> bytearray:
        """The content key of a message. Raises `LibcryptoError` or `JweError`."""
        ...


class _AgreementRecipient:
    algorithm = ECDH_ES_A256KW

    def __init__(self) -> None:
        self._key = AgreementKey()

    def jwk(self) -> dict[str, str]:
        point = self._key.point()
        return {
            "kty": "EC",
            "crv": "P-256",
            "alg": self.algorithm,
            "x": encode_base64url(point[1:33]),
            "y": encode_base64url(point[33:]),
        }

    def unwrap(self, message: FlattenedJwe) -> bytearray:
        secret = self._key.agree(ephemeral_point(message.header))
        try:
            return unwrap_aes_256(agreed_key(bytes(secret), message.header), message.encrypted_key)
        finally:
            wipe(secret)


class _RsaRecipient:
    algorithm = RSA_OAEP_256

    def __init__(self) -> None:
        self._key = RsaKey(RSA_BITS)

    def jwk(self) -> dict[str, str]:
        modulus, exponent = _public_numbers(self._key.public())
        return {"kty": "RSA", "alg": self.algorithm, "n": encode_base64url(modulus), "e": encode_base64url(exponent)}

    def unwrap(self, message: FlattenedJwe) -> bytearray:
        return self._key.decrypt(message.encrypted_key)


async def new_recipient(kind: BrokerKey) -> RecipientKey:
    """A key made just now; for RSA it takes a while, outside the event loop."""
    if kind is BrokerKey.RSA:
        return await asyncio.to_thread(_RsaRecipient)
    return _AgreementRecipient()


def open_jwe(data: bytes, key: RecipientKey) -> bytearray:
    """The plaintext of a flattened JWE for `key`. Raises `MalformedReplyError`."""
    try:
        message = read_flattened_jwe(data)
        if message.header.alg != key.algorithm:
            # The sender must not choose what the key is used for.
            raise MalformedReplyError(f"the JWE is for a key of {message.header.alg}; ours is for {key.algorithm}")
        content_key = key.unwrap(message)
        try:
            if len(content_key) != KEY_SIZE:
                raise LibcryptoError("the content key has another size")
            return bytearray(
                decrypt(bytes(content_key), message.nonce, message.ciphertext + message.tag, message.authenticated)
            )
        finally:
            wipe(content_key)
    except JweError as error:
        raise MalformedReplyError(str(error)) from None
    except LibcryptoError:
        # One message for all: which step failed would tell forgers of ciphertexts about the plaintext.
        raise MalformedReplyError("the JWE cannot be decrypted with the key that was attested") from None


def _public_numbers(spki: bytes) -> tuple[bytes, bytes]:
    """Modulus and exponent of an RSA key, big-endian without leading zeros (RFC 8017, A.1.1)."""
    _, bits = members(parse_ber(spki), "the SubjectPublicKeyInfo")
    # The first octet of a BIT STRING counts the bits that are not used: none here.
    modulus, exponent = members(parse_ber(bits.content[1:]), "the RSAPublicKey")
    return modulus.content.lstrip(b"\0"), exponent.content.lstrip(b"\0")
