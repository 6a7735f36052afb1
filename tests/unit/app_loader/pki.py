"""Certificates and revocation lists for tests, good and bad ones, made on the spot."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keep_protocol.spec import Principal
from keep_protocol.states import CrlPolicy, KeepRole

DAY = datetime.timedelta(days=1)
MINUTE = datetime.timedelta(minutes=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Credential:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self.certificate.public_bytes(serialization.Encoding.PEM) + private

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.certificate.serial_number:x}.pem"
        path.write_bytes(self.pem)
        return path

    def pinned(self, *roles: KeepRole) -> Principal:
        return Principal(roles=roles or (KeepRole.OWNER,), certificate=base64.b64encode(self.der).decode())


def self_signed(
    *,
    purpose: x509.ObjectIdentifier | None = None,
    authority: bool | None = False,
    not_after: datetime.datetime | None = None,
    strict: bool = True,
    names: Sequence[str] = (),
) -> Credential:
    """A certificate that its owner made; without `strict`, as `openssl req -x509` makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
    builder = _builder(name, name, key, not_after)
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if strict:
        builder = builder.add_extension(_key_usage(authority=bool(authority)), critical=True)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
        )
    return Credential(builder.sign(key, hashes.SHA256()), key)


class Authority:
    """A CA for clients."""

    def __init__(self, name: str = "clients") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.certificate = (
            _builder(self._name, self._name, self._key, now() + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *identities: str,
        purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> Credential:
        """A client certificate with these URIs."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        uris = [x509.UniformResourceIdentifier(identity) for identity in identities]
        names = x509.SubjectAlternativeName(uris or [x509.DNSName("nobody.example")])
        builder = (
            _builder(self._name, name, key, not_after, not_before)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(names, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return Credential(builder.sign(self._key, hashes.SHA256()), key)

    def revocations(
        self,
        revoked: Sequence[Credential] = (),
        *,
        issued: datetime.datetime | None = None,
        next_update: datetime.datetime | None = None,
        forger: Authority | None = None,
    ) -> bytes:
        """A revocation list in PEM; a `forger` signs it in this CA's name."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(issued or now() - MINUTE)
            .next_update(next_update or now() + DAY)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
        )
        for credential in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(credential.certificate.serial_number)
                .revocation_date(now() - MINUTE)
                .build()
            )
        signed = builder.sign((forger or self)._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def reissued(self) -> x509.Certificate:
        """Another certificate of the same key and name."""
        return (
            _builder(self._name, self._name, self._key, now() + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def names(self, identity: str, *roles: KeepRole, crl: CrlPolicy = CrlPolicy.NONE) -> Principal:
        """The principal `identity` under this CA."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return Principal(
            roles=roles or (KeepRole.OWNER,), ca=base64.b64encode(der).decode(), spiffe_id=identity, crl=crl
        )


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_after: datetime.datetime | None,
    not_before: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    end = not_after or now() + DAY
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or min(now(), end) - 5 * MINUTE)
        .not_valid_after(end)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
