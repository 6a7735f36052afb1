"""Signatures of attestation chains: the algorithms that are accepted, and whether a signature is by a key."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from asn1crypto import algos
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from keep_attestation.errors import MalformedCertificateError, UnsupportedEvidenceError


class SignatureScheme(StrEnum):
    """The signature algorithms that attestation chains use; every other is refused by name."""

    RSA_PSS_SHA384 = "rsassa-pss-sha384"
    RSA_SHA256 = "rsa-sha256"
    RSA_SHA384 = "rsa-sha384"
    ECDSA_SHA256 = "ecdsa-sha256"
    ECDSA_SHA384 = "ecdsa-sha384"
    RSA_SHA512 = "rsa-sha512"
    ECDSA_SHA512 = "ecdsa-sha512"
    """The last two by makers of TPMs."""


_PKCS1_HASHES: dict[SignatureScheme, hashes.HashAlgorithm] = {
    SignatureScheme.RSA_SHA256: hashes.SHA256(),
    SignatureScheme.RSA_SHA384: hashes.SHA384(),
    SignatureScheme.RSA_SHA512: hashes.SHA512(),
}
_ECDSA_HASHES: dict[SignatureScheme, hashes.HashAlgorithm] = {
    SignatureScheme.ECDSA_SHA256: hashes.SHA256(),
    SignatureScheme.ECDSA_SHA384: hashes.SHA384(),
    SignatureScheme.ECDSA_SHA512: hashes.SHA512(),
}


@lru_cache(maxsize=64)
def scheme_of(der: bytes) -> SignatureScheme | None:
    """The scheme of a DER AlgorithmIdentifier; None for one that is not accepted."""
    algorithm = algos.SignedDigestAlgorithm.load(der)
    name = algorithm["algorithm"].native
    if name == "rsassa_pss":
        parameters = algorithm["parameters"].native
        generator = parameters["mask_gen_algorithm"]
        exact = (
            parameters["hash_algorithm"]["algorithm"] == "sha384"
            and generator["algorithm"] == "mgf1"
            and generator["parameters"]["algorithm"] == "sha384"
            and parameters["salt_length"] == 48
        )
        return SignatureScheme.RSA_PSS_SHA384 if exact else None
    return {
        "sha256_rsa": SignatureScheme.RSA_SHA256,
        "sha384_rsa": SignatureScheme.RSA_SHA384,
        "sha256_ecdsa": SignatureScheme.ECDSA_SHA256,
        "sha384_ecdsa": SignatureScheme.ECDSA_SHA384,
        "sha512_rsa": SignatureScheme.RSA_SHA512,
        "sha512_ecdsa": SignatureScheme.ECDSA_SHA512,
    }.get(name)


@lru_cache(maxsize=256)
def load_public_key(spki: bytes) -> PublicKeyTypes:
    """The key in a DER SubjectPublicKeyInfo. Raises `MalformedCertificateError` or `UnsupportedEvidenceError`."""
    try:
        return serialization.load_der_public_key(spki)
    except UnsupportedAlgorithm as error:
        raise UnsupportedEvidenceError(f"a public key is of an unsupported algorithm: {error}") from None
    except (ValueError, TypeError) as error:
        raise MalformedCertificateError(f"a public key is not well-formed: {error}") from None


def signature_holds(key: PublicKeyTypes, scheme: SignatureScheme | None, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` over `signed` is by `key`. A key of another type than the scheme's is a plain no."""
    try:
        match scheme, key:
            case SignatureScheme.RSA_PSS_SHA384, rsa.RSAPublicKey():
                pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
                key.verify(signature, signed, pss, hashes.SHA384())
            case SignatureScheme(), rsa.RSAPublicKey() if scheme in _PKCS1_HASHES:
                key.verify(signature, signed, padding.PKCS1v15(), _PKCS1_HASHES[scheme])
            case SignatureScheme(), ec.EllipticCurvePublicKey() if scheme in _ECDSA_HASHES:
                key.verify(signature, signed, ec.ECDSA(_ECDSA_HASHES[scheme]))
            case _:
                return False
    except (InvalidSignature, ValueError):
        return False
    return True
