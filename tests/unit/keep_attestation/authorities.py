"""Makes certificates and CRLs as attestation chains have them: good ones, and ones with one flaw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from keep_attestation.certificates import Certificate, read_certificate

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(days=30), NOW + timedelta(days=30)


@dataclass(frozen=True)
class Authority:
    """A key and its certificate."""

    key: Any
    der: bytes

    @property
    def certificate(self) -> Certificate:
        return read_certificate(self.der)


def issue(
    name: str,
    issuer: Authority | None = None,
    *,
    issuer_name: str | None = None,
    key: Any = None,
    ca: bool | None = True,
    path_length: int | None = None,
    signs: str = "certificates and CRLs",
    not_before: datetime = BEFORE,
    not_after: datetime = AFTER,
    hash_algorithm: Any = None,
    rsa_padding: padding.PSS | padding.PKCS1v15 | None = None,
    extensions: Iterable[tuple[str, bytes, bool]] = (),
) -> Authority:
    """A certificate by `issuer`, or by itself; `extensions` are OID, content and whether critical."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    issued = issuer_name or (issuer.certificate.subject_name if issuer else name)
    usage = x509.KeyUsage(True, False, False, False, False, "certificates" in signs, "CRLs" in signs, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issued))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(usage, critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    for oid, content, critical in extensions:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content), critical=critical
        )
    signer = issuer.key if issuer else key
    signed = builder.sign(signer, hash_algorithm or hashes.SHA256(), rsa_padding=rsa_padding)
    return Authority(key, signed.public_bytes(serialization.Encoding.DER))


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def altered(authority: Authority, signer: Any, alter: Callable[[asn1.Certificate], None]) -> Authority:
    """A certificate with what `cryptography` does not write, signed again (ECDSA with SHA-256)."""
    parsed = asn1.Certificate.load(authority.der)
    alter(parsed)
    parsed["signature_value"] = signer.sign(parsed["tbs_certificate"].dump(force=True), ec.ECDSA(hashes.SHA256()))
    return Authority(authority.key, parsed.dump(force=True))


def make_crl(
    issuer: Authority,
    *revoked: int,
    signer: Any = None,
    this_update: datetime = BEFORE,
    next_update: datetime = AFTER,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(named(issuer.certificate.subject_name))
        .last_update(this_update)
        .next_update(next_update)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(BEFORE).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer or issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


ROOT = issue("root")
INTERMEDIATE = issue("intermediate", ROOT)
LEAF = issue("leaf", INTERMEDIATE, ca=False, signs="")
CHAIN = (LEAF.certificate, INTERMEDIATE.certificate, ROOT.certificate)
