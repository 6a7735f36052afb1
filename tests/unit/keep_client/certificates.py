"""Certificates for tests: a CA, server and client leaves, self-signed keeps."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keep_client import Credentials
from keep_client.identity import key_pem, new_key, self_signed_pem

ALICE = "spiffe://example.org/user/alice"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (PEM) and its key."""

    certificate: str
    key: ec.EllipticCurvePrivateKey

    def saved(self, folder: Path, name: str) -> Credentials:
        """The same as files."""
        credentials = Credentials(folder / f"{name}.pem", folder / f"{name}.key")
        credentials.certificate.write_text(self.certificate)
        credentials.key.write_bytes(key_pem(self.key))
        return credentials


def self_signed(spiffe_id: str = ALICE) -> Pair:
    """A client that is pinned."""
    key = new_key()
    return Pair(self_signed_pem(key, spiffe_id, lifetime=timedelta(days=1)).decode(), key)


def keep_certificate(*, begins: timedelta = timedelta(minutes=-5), ends: timedelta = timedelta(days=1)) -> Pair:
    """A keep's own certificate; the times are relative to now."""
    key = new_key()
    name = _name("0123456789abcdef.keep.example.org")
    return _signed(name, name, key, key, begins=begins, ends=ends, address=True, usage=None)


class Authority:
    """A CA."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = new_key()
        self._name = _name(name)
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(Encoding.PEM).decode()

    def server(self) -> Pair:
        """A server at 127.0.0.1."""
        return self._issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH, address=True, spiffe_id=None)

    def client(self, spiffe_id: str = ALICE) -> Pair:
        """A client with this identity."""
        return self._issue("client", usage=ExtendedKeyUsageOID.CLIENT_AUTH, address=False, spiffe_id=spiffe_id)

    def _issue(self, name: str, *, usage: x509.ObjectIdentifier, address: bool, spiffe_id: str | None) -> Pair:
        return _signed(_name(name), self._name, new_key(), self._key, address=address, usage=usage, spiffe_id=spiffe_id)


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    address: bool,
    usage: x509.ObjectIdentifier | None,
    spiffe_id: str | None = None,
    begins: timedelta = timedelta(minutes=-5),
    ends: timedelta = timedelta(days=1),
) -> Pair:
    names: list[x509.GeneralName] = []
    if address:
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    if spiffe_id is not None:
        names.append(x509.UniformResourceIdentifier(spiffe_id))
    now = datetime.now(UTC)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Pair(builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode(), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
