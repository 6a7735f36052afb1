"""Opens `CiphertextForRecipient`, in which AWS KMS wraps what it decrypts for enclaves: CMS EnvelopedData (RFC 5652).

AES-CBC has no integrity of its own: such a reply is worth as much as the TLS connection that it came on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app_loader.errors import LibcryptoError
from app_loader.key_release import ber
from app_loader.key_release.ber import Element, context, members, octets, parse_ber
from app_loader.key_release.errors import MalformedReplyError
from app_loader.libcrypto_recipient import AES_KEY_SIZE, RsaKey, decrypt_aes_256_cbc

_BLOCK_SIZE: Final = 16

_ENVELOPED_DATA: Final = bytes.fromhex("2a864886f70d010703")
_DATA: Final = bytes.fromhex("2a864886f70d010701")
_RSAES_OAEP: Final = bytes.fromhex("2a864886f70d010107")
_MGF1: Final = bytes.fromhex("2a864886f70d010108")
_P_SPECIFIED: Final = bytes.fromhex("2a864886f70d010109")
_SHA256: Final = bytes.fromhex("608648016503040201")
_AES_256_CBC: Final = bytes.fromhex("60864801650304012a")

_ENVELOPED_VERSION: Final = b"\x02"
_TRANSPORT_VERSION: Final = b"\x02"
"""Of a recipient that is named by its key's identifier (RFC 5652, 6.2.1)."""


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
    """The parts of a `CiphertextForRecipient`. Any other structure or algorithm is refused.

    Raises `MalformedReplyError`.
    """
    content_type, content = _exactly(parse_ber(data), 2, "the ContentInfo")
    _demand_identifier(content_type, _ENVELOPED_DATA, "the reply is no CMS EnvelopedData")
    (envelope,) = _exactly(content, 1, "the content", context(0, constructed=True))
    version, recipients, encrypted = _exactly(envelope, 3, "the EnvelopedData")
    _demand_version(version, _ENVELOPED_VERSION, "the EnvelopedData")
    (recipient,) = _exactly(recipients, 1, "the set of recipients", ber.SET)
    identifier, encrypted_key = _recipient(recipient)
    vector, ciphertext = _encrypted_content(encrypted)
    return EnvelopedKey(identifier, encrypted_key, vector, ciphertext)


def decrypt_enveloped_key(data: bytes, key: RsaKey) -> bytearray:
    """What KMS enveloped for `key`. Raises `MalformedReplyError`."""
    enveloped = parse_enveloped_key(data)
    try:
        content_key = key.decrypt(enveloped.encrypted_key)
        if len(content_key) == AES_KEY_SIZE:
            return decrypt_aes_256_cbc(bytes(content_key), enveloped.initialization_vector, enveloped.ciphertext)
    except LibcryptoError:
        pass
    # One message for all: which step failed would tell forgers of ciphertexts about the plaintext.
    raise MalformedReplyError("the reply of KMS cannot be decrypted with the key that was attested")


def _recipient(element: Element) -> tuple[bytes, bytes]:
    """Identifier and encrypted key of a KeyTransRecipientInfo."""
    version, named, algorithm, encrypted_key = _exactly(element, 4, "the recipient")
    _demand_version(version, _TRANSPORT_VERSION, "the recipient")
    identifier = octets(named, "the recipient's identifier", implicit=0)
    _demand_oaep_sha256(algorithm)
    return identifier, octets(encrypted_key, "the encrypted key")


def _encrypted_content(element: Element) -> tuple[bytes, bytes]:
    """Initialization vector and ciphertext of an EncryptedContentInfo."""
    content_type, algorithm, content = _exactly(element, 3, "the encrypted content")
    _demand_identifier(content_type, _DATA, "what is encrypted is not plain data")
    identifier, parameters = _exactly(algorithm, 2, "the algorithm of the content")
    _demand_identifier(identifier, _AES_256_CBC, "the content is not encrypted with AES-256-CBC")
    vector = octets(parameters, "the initialization vector")
    ciphertext = octets(content, "the ciphertext", implicit=0)
    if len(vector) != _BLOCK_SIZE:
        raise MalformedReplyError(f"the initialization vector has {len(vector)} bytes, not {_BLOCK_SIZE}")
    if not ciphertext or len(ciphertext) % _BLOCK_SIZE:
        raise MalformedReplyError("the ciphertext is absent or not of whole blocks")
    return vector, ciphertext


def _demand_oaep_sha256(algorithm: Element) -> None:
    # RFC 4055, 4.1. What is left out stands for SHA-1 there, so hash and mask must be written out.
    identifier, parameters = _exactly(algorithm, 2, "the algorithm of the key")
    _demand_identifier(identifier, _RSAES_OAEP, "the key is not transported with RSAES-OAEP")
    parts = members(parameters, "the parameters of RSAES-OAEP")
    if len(parts) not in (2, 3):
        raise MalformedReplyError("RSAES-OAEP is used with another hash than SHA-256, another mask or a label")
    (digest,) = _exactly(parts[0], 1, "the hash of RSAES-OAEP", context(0, constructed=True))
    _demand_sha256(digest)
    (mask,) = _exactly(parts[1], 1, "the mask of RSAES-OAEP", context(1, constructed=True))
    generator, digest = _exactly(mask, 2, "the mask of RSAES-OAEP")
    _demand_identifier(generator, _MGF1, "RSAES-OAEP is used with another mask than MGF1")
    _demand_sha256(digest)
    if len(parts) == 3:
        (source,) = _exactly(parts[2], 1, "the label of RSAES-OAEP", context(2, constructed=True))
        kind, label = _exactly(source, 2, "the label of RSAES-OAEP")
        _demand_identifier(kind, _P_SPECIFIED, "the label of RSAES-OAEP is of an unknown kind")
        if octets(label, "the label of RSAES-OAEP"):
            raise MalformedReplyError("RSAES-OAEP is used with a label")


def _demand_sha256(algorithm: Element) -> None:
    parts = members(algorithm, "a hash of RSAES-OAEP")
    # RFC 4055, 2.1: with a NULL or without, both are to be accepted.
    if len(parts) not in (1, 2) or (len(parts) == 2 and parts[1] != Element(ber.NULL)):
        raise MalformedReplyError("a hash of RSAES-OAEP has parameters")
    _demand_identifier(parts[0], _SHA256, "RSAES-OAEP is used with another hash than SHA-256")


def _demand_identifier(element: Element, wanted: bytes, otherwise: str) -> None:
    if element != Element(ber.OBJECT_IDENTIFIER, wanted):
        raise MalformedReplyError(otherwise)


def _demand_version(element: Element, wanted: bytes, what: str) -> None:
    if element != Element(ber.INTEGER, wanted):
        raise MalformedReplyError(f"{what} has another version than {wanted[0]}")


def _exactly(element: Element, count: int, what: str, tag: int = ber.SEQUENCE) -> tuple[Element, ...]:
    parts = members(element, what, tag)
    if len(parts) != count:
        raise MalformedReplyError(f"{what} has {len(parts)} parts, not {count}")
    return parts
