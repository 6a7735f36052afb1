"""Reads `CiphertextForRecipient`, in which AWS KMS wraps keys for enclaves: CMS EnvelopedData (RFC 5652, section 6).

KMS writes BER with indefinite lengths, which `cryptography` refuses. AES-CBC has no integrity of its own: such a reply
is worth as much as the TLS connection that it came on, and good for keys alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asn1crypto import cms
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keep_attestation.key_release.errors import MalformedReplyError

MAX_SIZE = 64 * 1024
_KEY_SIZE = 32
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class EnvelopedKey:
    """What an EnvelopedData for one recipient holds."""

    recipient: bytes
    """The subject key identifier of the recipient's key."""
    encrypted_key: bytes
    """The AES-256 key under RSAES-OAEP with SHA-256 and MGF1-SHA-256."""
    initialization_vector: bytes
    """16 bytes."""
    ciphertext: bytes
    """AES-256-CBC with PKCS #7 padding; whole blocks, at least one."""


def parse_enveloped_key(data: bytes) -> EnvelopedKey:
    """The parts of a `CiphertextForRecipient`, in BER or DER. Any other algorithm is refused by its name.

    Raises `MalformedReplyError`.
    """
    if len(data) > MAX_SIZE:
        raise MalformedReplyError(f"the enveloped key has {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        return _parse(data)
    except MalformedReplyError:
        raise
    # asn1crypto decodes lazily and raises whatever its parts raise (ValueError, TypeError, KeyError, IndexError, …).
    except Exception as error:
        raise MalformedReplyError(f"the enveloped key is not well-formed CMS: {error}") from None


def decrypt_enveloped_key(data: bytes, private_key: rsa.RSAPrivateKey) -> bytes:
    """The key in a `CiphertextForRecipient` for `private_key`. Raises `MalformedReplyError`."""
    enveloped = parse_enveloped_key(data)
    oaep = rsa_padding.OAEP(mgf=rsa_padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    try:
        content_key = private_key.decrypt(enveloped.encrypted_key, oaep)
        if len(content_key) != _KEY_SIZE:
            raise ValueError("the content key has another size")
        cipher = Cipher(algorithms.AES256(content_key), modes.CBC(enveloped.initialization_vector)).decryptor()
        padded = cipher.update(enveloped.ciphertext) + cipher.finalize()
        unpadder = padding.PKCS7(_BLOCK_SIZE * 8).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        # One message for all: which step failed would tell forgers of ciphertexts about the plaintext.
        raise MalformedReplyError("the enveloped key cannot be decrypted with this recipient's key") from None


def _parse(data: bytes) -> EnvelopedKey:
    message = cms.ContentInfo.load(data, strict=True)
    if message["content_type"].native != "enveloped_data":
        raise MalformedReplyError(f"the reply holds {message['content_type'].native}, not enveloped_data")
    envelope = message["content"]
    recipients = envelope["recipient_infos"]
    if len(recipients) != 1:
        raise MalformedReplyError(f"the enveloped key is for {len(recipients)} recipients, not for one")
    if recipients[0].name != "ktri":
        raise MalformedReplyError(f"the recipient is of the form {recipients[0].name}, not ktri (key transport)")
    recipient = recipients[0].chosen
    if recipient["rid"].name != "subject_key_identifier":
        raise MalformedReplyError("the recipient is not named by a subject key identifier")
    _demand_oaep_sha256(recipient["key_encryption_algorithm"])
    content = envelope["encrypted_content_info"]
    algorithm = content["content_encryption_algorithm"]
    if algorithm["algorithm"].native != "aes256_cbc":
        raise MalformedReplyError(f"the key is encrypted with {algorithm['algorithm'].native}, not with aes256_cbc")
    vector, ciphertext = algorithm["parameters"].native, content["encrypted_content"].native
    if not isinstance(vector, bytes) or len(vector) != _BLOCK_SIZE:
        raise MalformedReplyError("the initialization vector has another size than 16 bytes")
    if not isinstance(ciphertext, bytes) or not ciphertext or len(ciphertext) % _BLOCK_SIZE:
        raise MalformedReplyError("the encrypted key is absent or not of whole blocks")
    return EnvelopedKey(
        recipient=recipient["rid"].native,
        encrypted_key=recipient["encrypted_key"].native,
        initialization_vector=vector,
        ciphertext=ciphertext,
    )


def _demand_oaep_sha256(algorithm: Any) -> None:
    if algorithm["algorithm"].native != "rsaes_oaep":
        raise MalformedReplyError(f"the key is transported with {algorithm['algorithm'].native}, not with rsaes_oaep")
    parameters = algorithm["parameters"].native
    generator = parameters["mask_gen_algorithm"]
    exact = (
        parameters["hash_algorithm"]["algorithm"] == "sha256"
        and generator["algorithm"] == "mgf1"
        and generator["parameters"]["algorithm"] == "sha256"
        and parameters["p_source_algorithm"]["algorithm"] == "p_specified"
        and parameters["p_source_algorithm"]["parameters"] == b""
    )
    if not exact:
        raise MalformedReplyError("rsaes_oaep is used with another hash than SHA-256, another mask or a label")
