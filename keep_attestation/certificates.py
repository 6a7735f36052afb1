"""X.509 certificates and CRLs of attestation chains: read leniently in encoding, strictly in meaning.

asn1crypto reads them: `cryptography` refuses certificates that mbedTLS writes (NULL parameters beside ECDSA) and will
refuse AMD's (serial number 0). Signatures are checked by `cryptography` over the original bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

from asn1crypto import algos, core, crl, pem, x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from keep_attestation.errors import MalformedCertificateError, UnsupportedEvidenceError

MAX_CERTIFICATE_SIZE = 64 * 1024

_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_KNOWN_CRITICAL = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, "2.5.29.37", "2.5.29.17"})
"""Extensions that are understood here, or whose meaning (extended key usage, names) the caller judges."""


class SignatureScheme(StrEnum):
    """The signature algorithms that attestation chains use; every other is refused by name."""

    RSA_PSS_SHA384 = "rsassa-pss-sha384"
    RSA_SHA256 = "rsa-sha256"
    RSA_SHA384 = "rsa-sha384"
    ECDSA_SHA256 = "ecdsa-sha256"
    ECDSA_SHA384 = "ecdsa-sha384"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as its bytes say; nothing in it is verified yet."""

    der: bytes
    signed: bytes
    """The tbsCertificate as it was signed."""
    signature: bytes
    scheme: SignatureScheme | None
    """None: an algorithm that is not accepted here, named by `algorithm`."""
    algorithm: str
    spki: bytes
    subject: bytes
    issuer: bytes
    """Names in DER: compared bytewise."""
    subject_name: str
    issuer_name: str
    """Common names, for people."""
    serial: int
    not_before: datetime
    not_after: datetime
    extensions: Mapping[str, bytes]
    """By dotted OID: the content of extnValue's OCTET STRING."""
    critical: frozenset[str]
    is_ca: bool
    path_length: int | None
    may_sign_certificates: bool
    may_sign_crls: bool

    @property
    def sha256(self) -> str:
        """The fingerprint, in hex."""
        return sha256(self.der).hexdigest()

    @property
    def spki_sha256(self) -> str:
        return sha256(self.spki).hexdigest()

    def public_key(self) -> PublicKeyTypes:
        """Raises `MalformedCertificateError` or `UnsupportedEvidenceError`."""
        return load_public_key(self.spki)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A CRL (RFC 5280, 5) as its bytes say; verified by `revoked_by`."""

    signed: bytes
    signature: bytes
    scheme: SignatureScheme | None
    algorithm: str
    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    serials: frozenset[int]


def read_certificate(data: bytes) -> Certificate:
    """The one certificate in `data`, DER or PEM. Raises `MalformedCertificateError`."""
    certificates = read_certificates(data)
    if len(certificates) != 1:
        raise MalformedCertificateError(f"one certificate expected, {len(certificates)} came")
    return certificates[0]


def read_certificates(data: bytes) -> tuple[Certificate, ...]:
    """All certificates in `data`: one in DER, or any number in PEM. Raises `MalformedCertificateError`."""
    if not data.lstrip().startswith(b"-----"):
        return (_read_der(bytes(data)),)
    try:
        blocks = list(pem.unarmor(data, multiple=True))
    except (ValueError, TypeError) as error:
        raise MalformedCertificateError(f"a certificate is not well-formed PEM: {error}") from None
    if wrong := next((kind for kind, _, _ in blocks if kind not in ("CERTIFICATE", "TRUSTED CERTIFICATE")), None):
        raise MalformedCertificateError(f"PEM of certificates holds a {wrong}")
    return tuple(_read_der(der) for _, _, der in blocks)


@lru_cache(maxsize=256)
def _read_der(der: bytes) -> Certificate:
    # Cached: chains of one fleet repeat, and asn1crypto is pure Python.
    if len(der) > MAX_CERTIFICATE_SIZE:
        raise MalformedCertificateError(f"a certificate has {len(der)} bytes; at most {MAX_CERTIFICATE_SIZE} are read")
    try:
        return _decode_certificate(der)
    except MalformedCertificateError:
        raise
    # asn1crypto decodes lazily and raises whatever its parts raise (ValueError, TypeError, KeyError, IndexError, …).
    except Exception as error:
        raise MalformedCertificateError(f"a certificate is not well-formed DER: {error}") from None


def _decode_certificate(der: bytes) -> Certificate:
    parsed = x509.Certificate.load(der, strict=True)
    body = parsed["tbs_certificate"]
    algorithm = parsed["signature_algorithm"]
    # Bytewise: the outer one is not signed.
    if algorithm.dump() != body["signature"].dump():
        raise MalformedCertificateError("a certificate names two signature algorithms")
    extensions: dict[str, bytes] = {}
    critical: set[str] = set()
    for extension in body["extensions"]:
        oid = extension["extn_id"].dotted
        if oid in extensions:
            raise MalformedCertificateError(f"a certificate has extension {oid} twice")
        extensions[oid] = extension["extn_value"].contents
        if extension["critical"].native:
            critical.add(oid)
    constraints = x509.BasicConstraints.load(extensions[_BASIC_CONSTRAINTS]) if _BASIC_CONSTRAINTS in extensions else {}
    usage = x509.KeyUsage.load(extensions[_KEY_USAGE]).native if _KEY_USAGE in extensions else None
    path_length = constraints["path_len_constraint"].native if constraints else None
    subject, issuer = body["subject"].dump(), body["issuer"].dump()
    return Certificate(
        der=der,
        signed=body.dump(),
        signature=parsed["signature_value"].native,
        scheme=_scheme(algorithm.dump()),
        algorithm=str(algorithm["algorithm"].native),
        spki=body["subject_public_key_info"].dump(),
        subject=subject,
        issuer=issuer,
        subject_name=_common_name(subject),
        issuer_name=_common_name(issuer),
        serial=parsed.serial_number,
        not_before=_moment(parsed.not_valid_before),
        not_after=_moment(parsed.not_valid_after),
        extensions=extensions,
        critical=frozenset(critical),
        is_ca=bool(constraints and constraints["ca"].native),
        path_length=path_length,
        may_sign_certificates=usage is not None and "key_cert_sign" in usage,
        may_sign_crls=usage is not None and "crl_sign" in usage,
    )


def read_crl(der: bytes) -> RevocationList:
    """Raises `MalformedCertificateError`."""
    try:
        parsed = crl.CertificateList.load(der, strict=True)
        body = parsed["tbs_cert_list"]
        return RevocationList(
            signed=body.dump(),
            signature=parsed["signature"].native,
            scheme=_scheme(parsed["signature_algorithm"].dump()),
            algorithm=str(parsed["signature_algorithm"]["algorithm"].native),
            issuer=body["issuer"].dump(),
            this_update=_moment(body["this_update"].native),
            next_update=None if body["next_update"].native is None else _moment(body["next_update"].native),
            serials=frozenset(entry["user_certificate"].native for entry in body["revoked_certificates"] or ()),
        )
    except Exception as error:
        raise MalformedCertificateError(f"a CRL is not well-formed DER: {error}") from None


def _moment(value: Any) -> datetime:
    # asn1crypto gives a time without zone as it stands, and one of year 0 in a class of its own: neither compares.
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise MalformedCertificateError(f"the time {value} has no time zone or no year")
    return value


@lru_cache(maxsize=256)
def _common_name(der: bytes) -> str:
    # Remembered, as algorithms are: a fleet's certificates share them, and to decode both is half the cost of reading.
    value = x509.Name.load(der).native.get("common_name", "")
    return value if isinstance(value, str) else ", ".join(map(str, value))


@lru_cache(maxsize=64)
def _scheme(der: bytes) -> SignatureScheme | None:
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
            case SignatureScheme.RSA_SHA256 | SignatureScheme.RSA_SHA384, rsa.RSAPublicKey():
                digest = hashes.SHA256() if scheme is SignatureScheme.RSA_SHA256 else hashes.SHA384()
                key.verify(signature, signed, padding.PKCS1v15(), digest)
            case SignatureScheme.ECDSA_SHA256, ec.EllipticCurvePublicKey():
                key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
            case SignatureScheme.ECDSA_SHA384, ec.EllipticCurvePublicKey():
                key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
            case _:
                return False
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _signature_known(spki: bytes, scheme: SignatureScheme, signature: bytes, signed: bytes) -> bool:
    # Remembered for certificates, since links of one fleet's chains repeat: it is true of these bytes or never was.
    # What may change (times, revocation, what is pinned) is judged every time.
    return signature_holds(load_public_key(spki), scheme, signature, signed)


def issued_by(certificate: Certificate, issuer: Certificate) -> str | None:
    """Why `issuer` did not issue `certificate`, or None if it did: names, rights to sign, and the signature."""
    if certificate.issuer != issuer.subject:
        return f"its issuer is {certificate.issuer_name!r}, not {issuer.subject_name!r}"
    if not issuer.is_ca:
        return f"its issuer {issuer.subject_name!r} is no CA"
    if not issuer.may_sign_certificates:
        return f"its issuer {issuer.subject_name!r} may not sign certificates"
    if certificate.scheme is None:
        return f"it is signed with {certificate.algorithm}, which is not accepted"
    if not _signature_known(issuer.spki, certificate.scheme, certificate.signature, certificate.signed):
        return f"its signature is not by {issuer.subject_name!r}"
    return None


def chain_problem(chain: Sequence[Certificate], at: datetime) -> str | None:
    """Why `chain` (leaf first, trust anchor last) does not hold at `at`, or None if it does.

    The caller has compared the anchor with a pin; here it must only be its own issuer or be valid as a CA.
    """
    for certificate in chain:
        if unknown := certificate.critical - _KNOWN_CRITICAL:
            return f"{certificate.subject_name!r} has a critical extension that is not known: {min(unknown)}"
        if not certificate.not_before <= at <= certificate.not_after:
            return (
                f"{certificate.subject_name!r} is valid from {certificate.not_before:%Y-%m-%dT%H:%M:%SZ} to "
                f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}, not at {at:%Y-%m-%dT%H:%M:%SZ}"
            )
    for depth, (certificate, issuer) in enumerate(pairwise(chain)):
        if problem := issued_by(certificate, issuer):
            return f"{certificate.subject_name!r}: {problem}"
        if issuer.path_length is not None and depth > issuer.path_length:
            return f"{issuer.subject_name!r} admits {issuer.path_length} CAs below it, there are {depth}"
    return None


def build_chain(leaf: Certificate, candidates: Iterable[Certificate], anchor: Certificate) -> tuple[Certificate, ...]:
    """The chain from `leaf` to `anchor` by names through `candidates`; ends where no name fits. Checks nothing else."""
    by_subject = {candidate.subject: candidate for candidate in candidates}
    chain = [leaf]
    while chain[-1].der != anchor.der and len(chain) < 8:
        issuer = anchor if chain[-1].issuer == anchor.subject else by_subject.get(chain[-1].issuer)
        if issuer is None or issuer in chain:
            break
        chain.append(issuer)
    return tuple(chain)


def revoked_by(revocations: RevocationList, issuer: Certificate, serials: Iterable[int], at: datetime) -> str | None:
    """Why the CRL of `issuer` forbids certificates with `serials` at `at`, or None.

    A CRL that is not by `issuer`, has no nextUpdate, or is not current forbids everything: it proves nothing.
    """
    if revocations.issuer != issuer.subject:
        return f"the CRL is not issued by {issuer.subject_name!r}"
    if not issuer.may_sign_crls:
        return f"{issuer.subject_name!r} may not sign CRLs"
    if not signature_holds(issuer.public_key(), revocations.scheme, revocations.signature, revocations.signed):
        return f"the CRL's signature is not by {issuer.subject_name!r}"
    if revocations.next_update is None:
        return "the CRL has no nextUpdate, so nobody can tell when it is stale"
    if not revocations.this_update <= at <= revocations.next_update:
        return (
            f"the CRL is current from {revocations.this_update:%Y-%m-%d} to {revocations.next_update:%Y-%m-%d}, "
            f"not at {at:%Y-%m-%d}"
        )
    if revoked := sorted(set(serials) & revocations.serials):
        return f"{issuer.subject_name!r} has revoked serial number {revoked[0]:#x}"
    return None


def octet_string(data: bytes) -> bytes:
    """What the one DER OCTET STRING in `data` holds. Raises `MalformedCertificateError`."""
    value = _primitive(core.OctetString, data, "OCTET STRING")
    assert isinstance(value, bytes)
    return value


def object_identifiers(data: bytes) -> tuple[str, ...]:
    """The dotted names in the one DER SEQUENCE OF OBJECT IDENTIFIER in `data`. Raises `MalformedCertificateError`."""
    try:
        return tuple(item.dotted for item in x509.ExtKeyUsageSyntax.load(data, strict=True))
    except Exception as error:
        raise MalformedCertificateError(f"an extension is no list of identifiers: {error}") from None


def integer(data: bytes) -> int:
    """The one DER INTEGER in `data`. Raises `MalformedCertificateError`."""
    value = _primitive(core.Integer, data, "INTEGER")
    assert isinstance(value, int)
    return value


def _primitive(kind: Any, data: bytes, name: str) -> Any:
    try:
        return kind.load(data, strict=True).native
    except (ValueError, TypeError) as error:
        raise MalformedCertificateError(f"an extension is no DER {name}: {error}") from None
