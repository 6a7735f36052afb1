"""Makes keeps with simulated evidence, and certificates of any convention, good and forged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app_loader.attesters.simulated import attest
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_protocol.cmw import build_collection, cmw_extension
from keep_protocol.evidence import CMW_OID, Claims, EvidenceKind, encode_claims, report_data

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
MEASUREMENT = hashlib.sha256(b"code of the keep").digest()
SPEC_SHA256 = hashlib.sha256(b"the spec").digest()
WORKLOAD_SHA256 = hashlib.sha256(b"the workload").digest()
KEEP_ID = "0123456789ab"

POLICY = Policy(simulated=(SimulatedPolicy(measurements=(MEASUREMENT.hex(),)),))
EXPECTED = ExpectedKeep(keep=KEEP_ID, spec_sha256=SPEC_SHA256)


def spki_of(key: Any) -> bytes:
    spki: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return spki


def make_certificate(
    key: Any,
    extensions: Mapping[str, bytes],
    *,
    not_before: datetime = AT - timedelta(minutes=1),
    lifetime: timedelta = timedelta(hours=23),
    signer: Any = None,
    issuer: str = "keep",
    critical: bool = False,
) -> bytes:
    """A certificate in DER with these extensions, self-signed unless another `signer` is given."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keep")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime)
    )
    for oid, value in extensions.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(signer or key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


@dataclass
class FakeKeep:
    """A keep that attests by simulated evidence."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    measurement: bytes = MEASUREMENT

    @property
    def spki(self) -> bytes:
        return spki_of(self.key)

    def claims(self, **changes: Any) -> Claims:
        claims = Claims(
            kind=EvidenceKind.SIMULATED,
            backend="process",
            keep=KEEP_ID,
            spki_sha256=hashlib.sha256(self.spki).digest(),
            spec_sha256=SPEC_SHA256,
            issued_at=int(AT.timestamp()),
        )
        return msgspec.structs.replace(claims, **changes)

    def collection(self, **changes: Any) -> bytes:
        """Evidence over its claims, some of them changed, as an honest attester makes it for whatever it is told."""
        claims = encode_claims(self.claims(**changes))
        return build_collection(EvidenceKind.SIMULATED, attest(report_data(claims), self.measurement), claims)

    def certificate(self, collection: bytes | None = None, **options: Any) -> bytes:
        value = cmw_extension(self.collection() if collection is None else collection)
        return make_certificate(self.key, {CMW_OID: value}, **options)

    def answer(self, nonce: bytes, exporter: bytes, **changes: Any) -> bytes:
        return self.collection(nonce=nonce, exporter=exporter, **changes)
