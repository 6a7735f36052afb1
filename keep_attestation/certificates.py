"""X.509 certificates and CRLs of attestation chains: read leniently in encoding, strictly in meaning.

`keep_attestation.der` takes them apart and asn1crypto reads names, algorithms and CRLs: `cryptography` refuses
certificates that mbedTLS writes (NULL parameters beside ECDSA) and will refuse AMD's (serial number 0). Signatures are
checked by `cryptography` over the original bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

from asn1crypto import algos, core, crl, pem, x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from keep_attestation.der import (
    BIT_STRING,
    BOOLEAN,
    GENERALIZED_TIME,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    UTC_TIME,
    DerReader,
    one,
    signed_integer,
)
from keep_attestation.errors import MalformedCertificateError
from keep_attestation.signatures import SignatureScheme, load_public_key, scheme_of, signature_holds

MAX_CERTIFICATE_SIZE = 64 * 1024

_PEM_AFTER_TEXT = re.compile(rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*?\r?\n-----BEGIN ")
"""Quotes have PEM inside, too; what is before it there is no text."""
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_UNIQUE_IDS = (0x81, 0x82)
"""Context-specific tags of a tbsCertificate (RFC 5280, 4.1)."""
_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_KNOWN_CRITICAL = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, "2.5.29.37", "2.5.29.17"})
"""Extensions that are understood here, or whose meaning (extended key usage, names) the caller judges."""


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
    """All certificates in `data`, in DER or in PEM. Raises `MalformedCertificateError`."""
    if not is_pem(data):
        return tuple(map(_read_der, _elements(bytes(data))))
    try:
        blocks = list(pem.unarmor(data, multiple=True))
    except (ValueError, TypeError) as error:
        raise MalformedCertificateError(f"a certificate is not well-formed PEM: {error}") from None
    if wrong := next((kind for kind, _, _ in blocks if kind not in ("CERTIFICATE", "TRUSTED CERTIFICATE")), None):
        raise MalformedCertificateError(f"PEM of certificates holds a {wrong}")
    return tuple(_read_der(der) for _, _, der in blocks)


def is_pem(data: bytes) -> bool:
    """Whether `data` is in PEM, perhaps with words before it, as `openssl x509 -text` writes it."""
    return data.lstrip().startswith(b"-----") or _PEM_AFTER_TEXT.match(data) is not None


def _elements(data: bytes) -> tuple[bytes, ...]:
    """What DER is made of, if it is several certificates one behind the other, as `cat` makes them."""
    found, reader = [], DerReader(data)
    try:
        while not reader.ended:
            found.append(reader.whole(SEQUENCE))
    except MalformedCertificateError:
        return (data,)
    return tuple(found) or (data,)


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
    outer = DerReader(der)
    parts = outer.inside(SEQUENCE)
    outer.end()
    signed, content = parts.both(SEQUENCE)
    algorithm = parts.whole(SEQUENCE)
    signature = parts.take(BIT_STRING)
    parts.end()
    if signature[:1] != b"\x00":
        raise MalformedCertificateError("a certificate's signature is no whole number of bytes")
    body = DerReader(content)
    if body.is_next(_VERSION):
        body.take(_VERSION)
    serial = signed_integer(body.take(INTEGER))
    # Bytewise: the outer one is not signed.
    if algorithm != body.whole(SEQUENCE):
        raise MalformedCertificateError("a certificate names two signature algorithms")
    issuer = body.whole(SEQUENCE)
    validity = body.inside(SEQUENCE)
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    subject, spki = body.whole(SEQUENCE), body.whole(SEQUENCE)
    for unique_id in _UNIQUE_IDS:
        if body.is_next(unique_id):
            body.take(unique_id)
    extensions, critical = _extensions(body)
    is_ca, path_length = _constraints(extensions.get(_BASIC_CONSTRAINTS))
    usage = _usage(extensions.get(_KEY_USAGE))
    return Certificate(
        der=der,
        signed=signed,
        signature=signature[1:],
        scheme=scheme_of(algorithm),
        algorithm=_algorithm_name(algorithm),
        spki=spki,
        subject=subject,
        issuer=issuer,
        subject_name=_common_name(subject),
        issuer_name=_common_name(issuer),
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        extensions=extensions,
        critical=critical,
        is_ca=is_ca,
        path_length=path_length,
        may_sign_certificates="key_cert_sign" in usage,
        may_sign_crls="crl_sign" in usage,
    )


def _extensions(body: DerReader) -> tuple[dict[str, bytes], frozenset[str]]:
    """The content of every extension by its OID, and which are critical; none in certificates of version 1."""
    extensions: dict[str, bytes] = {}
    critical: set[str] = set()
    if body.is_next(_EXTENSIONS):
        wrapped = body.inside(_EXTENSIONS)
        listed = wrapped.inside(SEQUENCE)
        wrapped.end()
        while not listed.ended:
            extension = listed.inside(SEQUENCE)
            oid = _dotted(extension.whole(OBJECT_IDENTIFIER))
            if oid in extensions:
                raise MalformedCertificateError(f"a certificate has extension {oid} twice")
            if extension.is_next(BOOLEAN) and any(extension.take(BOOLEAN)):
                critical.add(oid)
            extensions[oid] = extension.take(OCTET_STRING)
            extension.end()
    body.end()
    return extensions, frozenset(critical)


def _time(reader: DerReader) -> datetime:
    is_utc = reader.is_next(UTC_TIME)
    whole, content = reader.both(UTC_TIME if is_utc else GENERALIZED_TIME)
    # RFC 5280, 4.1.2.5; two digits of a year are of 1950 to 2049.
    if content[-1:] == b"Z" and content[:-1].isdigit() and len(content) == (13 if is_utc else 15):
        digits = content[:-1].decode()
        if is_utc:
            digits = ("19" if digits >= "50" else "20") + digits
        year, rest = int(digits[:4]), [int(digits[place : place + 2]) for place in range(4, 14, 2)]
        month, day, hour, minute, second = rest
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return _moment((core.UTCTime if is_utc else core.GeneralizedTime).load(whole).native)


@lru_cache(maxsize=256)
def _constraints(content: bytes | None) -> tuple[bool, int | None]:
    """cA and pathLenConstraint. Remembered, like the three below: a fleet's certificates share them."""
    if content is None:
        return False, None
    constraints = x509.BasicConstraints.load(content)
    return bool(constraints["ca"].native), constraints["path_len_constraint"].native


@lru_cache(maxsize=64)
def _usage(content: bytes | None) -> frozenset[str]:
    return frozenset() if content is None else frozenset(x509.KeyUsage.load(content).native)


@lru_cache(maxsize=512)
def _dotted(encoded: bytes) -> str:
    return str(core.ObjectIdentifier.load(encoded).dotted)


@lru_cache(maxsize=64)
def _algorithm_name(der: bytes) -> str:
    return str(algos.SignedDigestAlgorithm.load(der)["algorithm"].native)


def read_crl(der: bytes) -> RevocationList:
    """Raises `MalformedCertificateError`."""
    try:
        parsed = crl.CertificateList.load(der, strict=True)
        body = parsed["tbs_cert_list"]
        return RevocationList(
            signed=body.dump(),
            signature=parsed["signature"].native,
            scheme=scheme_of(parsed["signature_algorithm"].dump()),
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
    return one(data, OCTET_STRING)


def object_identifiers(data: bytes) -> tuple[str, ...]:
    """The dotted names in the one DER SEQUENCE OF OBJECT IDENTIFIER in `data`. Raises `MalformedCertificateError`."""
    try:
        return tuple(item.dotted for item in x509.ExtKeyUsageSyntax.load(data, strict=True))
    except Exception as error:
        raise MalformedCertificateError(f"an extension is no list of identifiers: {error}") from None


def integer(data: bytes) -> int:
    """The one DER INTEGER in `data`. Raises `MalformedCertificateError`."""
    return signed_integer(one(data, INTEGER))
