"""Making one's own identity: a key, and a request or a self-signed certificate with one SPIFFE id."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keep_client.errors import InvalidArgumentError

# SPIFFE ID specification, section 2.
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+", re.ASCII)

BACKDATED = timedelta(minutes=5)
"""A certificate from a clock that is ahead would be refused as not yet valid."""

LONGEST_COMMON_NAME = 64


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request_pem(key: ec.EllipticCurvePrivateKey, spiffe_id: str) -> bytes:
    """A certificate signing request for a CA (PEM). Raises `InvalidArgumentError`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(spiffe_id))
    return (
        builder.add_extension(_names(spiffe_id), critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )


def self_signed_pem(key: ec.EllipticCurvePrivateKey, spiffe_id: str, *, lifetime: timedelta) -> bytes:
    """A certificate for specs that pin exactly this one (PEM). Raises `InvalidArgumentError`."""
    name = _subject(spiffe_id)
    now = datetime.now(UTC)
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_names(spiffe_id), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def write_new(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file that does not exist yet; a private one is readable by its owner only.

    Raises `InvalidArgumentError`, so that no key is ever overwritten.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o644)
    except FileExistsError:
        raise InvalidArgumentError(f"{path} exists already: remove it, or choose another name") from None
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def check_spiffe_id(text: str) -> str:
    """`text` if it is a canonical SPIFFE id with a path. Raises `InvalidArgumentError`."""
    if _SPIFFE_ID.fullmatch(text) is None or {".", ".."} & set(text.removeprefix("spiffe://").split("/")):
        raise InvalidArgumentError(f"{text!a} is not a SPIFFE id: expected one like spiffe://DOMAIN/user/NAME")
    return text


def _subject(spiffe_id: str) -> x509.Name:
    # Nobody reads it, but an empty subject would need a critical SAN.
    common_name = check_spiffe_id(spiffe_id).rpartition("/")[2][:LONGEST_COMMON_NAME]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _names(spiffe_id: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
