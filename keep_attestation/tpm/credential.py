"""Makes credentials: secrets that only the TPM with a given endorsement key gives out, and only for a given other key.

Source: TPM 2.0 Library, Part 1, 24 (credential protection), 11.4.10 (KDFa, KDFe), B.10.4 (RSA), C.6.4 (ECC).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from keep_attestation.errors import UnsupportedEvidenceError


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes."""

    blob: bytes
    """TPMS_ID_OBJECT: the content of TPM2B_ID_OBJECT."""
    encrypted_secret: bytes
    """The content of TPM2B_ENCRYPTED_SECRET."""


@dataclass(frozen=True, slots=True)
class _Strength:
    """The name's hash and the storage cipher's key size of an endorsement key's template."""

    digest: hashes.HashAlgorithm
    key_bits: int


_SHA256_AES128 = _Strength(hashes.SHA256(), 128)
_SHA384_AES256 = _Strength(hashes.SHA384(), 256)


def make_credential(endorsement_key: PublicKeyTypes, ak_name: bytes, secret: bytes) -> Credential:
    """`secret` (1 to 32 bytes) for the TPM of `endorsement_key`, if the key named `ak_name` is loaded there.

    The endorsement key's template is taken to be the default of the TCG EK Credential Profile 2.5 for its size: a
    certificate holds the bare key. What comes back proves that the attestation key is in this TPM, with the attributes
    that its name covers; then pin `ak_name`. Raises `UnsupportedEvidenceError` for keys of other sizes and `ValueError`
    for a secret of another size.
    """
    if not 1 <= len(secret) <= 32:
        raise ValueError("a credential's secret has 1 to 32 bytes")
    match endorsement_key:
        case rsa.RSAPublicKey(key_size=2048 | 3072 as size):
            strength = _SHA256_AES128 if size == 2048 else _SHA384_AES256
            seed, encrypted = _rsa_seed(endorsement_key, strength)
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            strength = _SHA256_AES128
            seed, encrypted = _ecc_seed(endorsement_key, strength)
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            strength = _SHA384_AES256
            seed, encrypted = _ecc_seed(endorsement_key, strength)
        case _:
            raise UnsupportedEvidenceError(
                "the endorsement key is neither RSA of 2048 or 3072 bits nor on P-256 or P-384"
            )
    storage_key = _kdf_a(strength.digest, seed, b"STORAGE", ak_name, strength.key_bits)
    identity = _encrypt_cfb(storage_key, _sized(secret))
    integrity = HMAC(_kdf_a(strength.digest, seed, b"INTEGRITY", b"", strength.digest.digest_size * 8), strength.digest)
    integrity.update(identity + ak_name)
    return Credential(_sized(integrity.finalize()) + identity, encrypted)


def _rsa_seed(key: rsa.RSAPublicKey, strength: _Strength) -> tuple[bytes, bytes]:
    seed = os.urandom(strength.digest.digest_size)
    oaep = padding.OAEP(mgf=padding.MGF1(strength.digest), algorithm=strength.digest, label=b"IDENTITY\x00")
    return seed, key.encrypt(seed, oaep)


def _ecc_seed(key: ec.EllipticCurvePublicKey, strength: _Strength) -> tuple[bytes, bytes]:
    ephemeral = ec.generate_private_key(key.curve)
    size = (key.curve.key_size + 7) // 8
    own, other = ephemeral.public_key().public_numbers(), key.public_numbers()
    own_x, own_y = own.x.to_bytes(size, "big"), own.y.to_bytes(size, "big")
    shared = ephemeral.exchange(ec.ECDH(), key)
    seed = _kdf_e(strength.digest, shared, b"IDENTITY", own_x, other.x.to_bytes(size, "big"))
    return seed, _sized(own_x) + _sized(own_y)


def _encrypt_cfb(key: bytes, plain: bytes) -> bytes:
    """AES in CFB with an initial vector of zeros, as the specification has it; the key is used once.

    Out of single blocks: `cryptography` has moved its CFB to where older versions do not have it.
    """
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    encrypted, previous = b"", bytes(16)
    for offset in range(0, len(plain), 16):
        mask = block_cipher.update(previous)
        previous = bytes(left ^ right for left, right in zip(plain[offset : offset + 16], mask, strict=False))
        encrypted += previous
    return encrypted


def _kdf_a(digest: hashes.HashAlgorithm, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa with one context, for outputs no longer than a digest."""
    derivation = HMAC(key, digest)
    derivation.update((1).to_bytes(4, "big") + label + b"\x00" + context + bits.to_bytes(4, "big"))
    return derivation.finalize()[: bits // 8]


def _kdf_e(digest: hashes.HashAlgorithm, shared: bytes, label: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """KDFe for an output of exactly a digest."""
    derivation = hashes.Hash(digest)
    derivation.update((1).to_bytes(4, "big") + shared + label + b"\x00" + party_u + party_v)
    return derivation.finalize()


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content
