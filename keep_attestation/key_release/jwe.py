"""Decrypts flattened JWE (RFC 7516, section 7.2.2) as key brokers send it: A256GCM, and two ways to wrap its key."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from keep_attestation.key_release.errors import MalformedReplyError
from keep_protocol.flattened_jwe import (
    ECDH_ES_A256KW,
    KEY_SIZE,
    RSA_OAEP_256,
    FlattenedJwe,
    JweError,
    JweHeader,
    agreed_key,
    ephemeral_point,
    read_flattened_jwe,
)


def parse_flattened_jwe(data: bytes) -> FlattenedJwe:
    """Raises `MalformedReplyError`; for algorithms that are not accepted with their names."""
    try:
        return read_flattened_jwe(data)
    except JweError as error:
        raise MalformedReplyError(str(error)) from None


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
            content_key = aes_key_unwrap(_wrapping_key(message.header, private_key), message.encrypted_key)
        if len(content_key) != KEY_SIZE:
            raise ValueError("the content key has another size")
        return AESGCM(content_key).decrypt(message.nonce, message.ciphertext + message.tag, message.authenticated)
    except JweError as error:
        raise MalformedReplyError(str(error)) from None
    except (ValueError, InvalidTag, InvalidUnwrap):
        # One message for all: which step failed would tell forgers of ciphertexts about the plaintext.
        raise MalformedReplyError("the JWE cannot be decrypted with this recipient's key") from None


def _wrapping_key(header: JweHeader, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    # Raises ValueError for a point that is not on the curve.
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ephemeral_point(header))
    return agreed_key(private_key.exchange(ec.ECDH(), ephemeral), header)
