"""A Nitro Security Module of our own: its documents differ from AWS's in their root alone, or in what one asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.nitro.document import NitroDocument, parse_document
from keep_protocol.evidence import EvidenceKind

MADE_AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
ES384 = b"\xa1\x01\x38\x22"


@dataclass
class Authority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def sha256(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey | None = None,
        *,
        ca: bool,
        not_before: datetime = MADE_AT - timedelta(hours=1),
        lifetime: timedelta = timedelta(hours=3),
        serial: int | None = None,
        usages: Sequence[str] = (),
    ) -> Authority:
        return issue(
            name, key, issuer=self, ca=ca, not_before=not_before, lifetime=lifetime, serial=serial, usages=usages
        )

    def crl(self, *serials: int, this_update: datetime = MADE_AT - timedelta(days=1)) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(this_update)
            .next_update(this_update + timedelta(days=7))
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def issue(
    name: str,
    key: ec.EllipticCurvePrivateKey | None = None,
    *,
    issuer: Authority | None = None,
    ca: bool,
    not_before: datetime = MADE_AT - timedelta(days=365),
    lifetime: timedelta = timedelta(days=3650),
    serial: int | None = None,
    usages: Sequence[str] = (),
) -> Authority:
    """A certificate as AWS's look; self-signed without `issuer`. `usages` are extended key usages by dotted name."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, usages)), critical=False)
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA384()), key)


@dataclass
class Module:
    """Signs documents under a chain of its own: root, one intermediate, and a leaf."""

    root: Authority = field(default_factory=lambda: issue("aws.nitro-enclaves", ca=True))
    intermediate: Authority = field(init=False)
    leaf: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.intermediate = self.root.issue("region.aws.nitro-enclaves", ca=True, lifetime=timedelta(days=20))
        self.leaf = self.intermediate.issue("i-0123-enc0456", ca=False)

    def payload(self, **changes: Any) -> dict[str, Any]:
        members = {
            "module_id": "i-0123-enc0456",
            "digest": "SHA384",
            "timestamp": int(MADE_AT.timestamp() * 1000),
            "pcrs": {index: bytes([index + 1] * 48) if index < 3 else bytes(48) for index in range(16)},
            "certificate": self.leaf.der,
            "cabundle": [self.root.der, self.intermediate.der],
            "public_key": b"key",
            "user_data": b"claims",
            "nonce": b"nonce",
        } | changes
        return {name: value for name, value in members.items() if value is not ...}

    def sign(
        self,
        payload: bytes,
        *,
        protected: bytes = ES384,
        unprotected: Any = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        signature = (key or self.leaf.key).sign(signed, ec.ECDSA(hashes.SHA384()))
        halves = b"".join(value.to_bytes(48, "big") for value in utils.decode_dss_signature(signature))
        return cbor2.dumps([protected, unprotected or {}, payload, halves])

    def document(self, **changes: Any) -> bytes:
        """A document with changed members; `...` leaves one out."""
        return self.sign(cbor2.dumps(self.payload(**changes)))


def nitro_evidence(document: bytes, *crls: bytes) -> Evidence:
    return Evidence(kind=EvidenceKind.NITRO, body=document, endorsements=Endorsements(crls=crls))


def binding_of(document: NitroDocument | bytes) -> Binding:
    """What the document is bound to by its own word."""
    if isinstance(document, bytes):
        document = parse_document(document)
    return Binding(
        user_data=document.user_data or b"", public_key=document.public_key or b"", nonce=document.nonce or b""
    )
