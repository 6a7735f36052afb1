"""Finds evidence in certificates and certification requests, and judges what bears it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from asn1crypto import csr
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.certificates import MAX_CERTIFICATE_SIZE, Certificate, read_certificate
from keep_attestation.errors import MalformedCertificateError, MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.ratls.conventions import (
    a3s,
    cocos_legacy,
    dstack,
    enarx,
    gramine,
    intel_sdk,
    keep_evidence,
    tcg_dice,
)
from keep_attestation.ratls.policy import CertificatePolicy, KeyType
from keep_attestation.ratls.presentation import OWN_CONVENTION, Bearer, Convention, Conventions, Presented
from keep_attestation.signatures import load_public_key, signature_holds
from keep_attestation.verdict import Check, Checks, Outcome

_READERS: dict[Convention, tuple[tuple[str, ...], Callable[[Bearer], tuple[Presented, ...]]]] = {
    Convention.KEEP_EVIDENCE: (keep_evidence.EVIDENCE_OIDS, keep_evidence.read),
    Convention.TCG_DICE: (tcg_dice.EVIDENCE_OIDS, tcg_dice.read),
    Convention.GRAMINE: (gramine.EVIDENCE_OIDS, gramine.read),
    Convention.INTEL_SDK: (intel_sdk.EVIDENCE_OIDS, intel_sdk.read),
    Convention.ENARX: (enarx.EVIDENCE_OIDS, enarx.read),
    Convention.COCOS_LEGACY: (cocos_legacy.EVIDENCE_OIDS, cocos_legacy.read),
    Convention.DSTACK: (dstack.EVIDENCE_OIDS, dstack.read),
    Convention.A3S: (a3s.EVIDENCE_OIDS, a3s.read),
}

_HARMLESS_CRITICAL = frozenset({"2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37"})
"""Key usage, names, basic constraints, extended key usage: RFC 5280 has them critical, none of them matters here."""
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_REQUEST_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha256_ecdsa": hashes.SHA256,
    "sha384_ecdsa": hashes.SHA384,
}
_MIN_RSA_BITS = 3072
_CURVES: Final = {"secp256r1": KeyType.P256, "secp384r1": KeyType.P384}


@dataclass(frozen=True, slots=True)
class PresentedEvidence:
    """Evidence found in one certificate or request; at least one, none of it verified."""

    spki: bytes
    """SubjectPublicKeyInfo in DER of the key that all of it must be bound to."""
    items: tuple[Presented, ...]
    certificate: Certificate | None
    """None: it came in a certification request."""
    proof: Check
    """Whether whoever made this held the private key, as far as can be seen from it."""


def read_ratls(
    certificate_der: bytes, *, accept: Conventions = OWN_CONVENTION, nonce: bytes | None = None
) -> PresentedEvidence:
    """The evidence in a certificate, DER or PEM, by the conventions in `accept`.

    `nonce` is what the verifier sent for it, where the convention has one. Evidence by a convention that is not
    accepted refuses the whole certificate, beside accepted evidence too: nothing that is shown goes unjudged.
    Raises `MalformedEvidenceError`, or `UnsupportedEvidenceError` when there is none that is accepted.
    """
    certificate = read_certificate(certificate_der)
    bearer = Bearer(certificate.spki, certificate.extensions, nonce)
    return PresentedEvidence(
        spki=certificate.spki, items=_find(bearer, accept), certificate=certificate, proof=_self_signature(certificate)
    )


def read_ratls_request(request_der: bytes, *, accept: Conventions = OWN_CONVENTION) -> PresentedEvidence:
    """The evidence in a PKCS#10 certification request (RFC 2986), among its requested extensions.

    Raises `MalformedEvidenceError`.
    """
    if len(request_der) > MAX_CERTIFICATE_SIZE:
        raise MalformedCertificateError(f"a request has {len(request_der)} bytes; at most {MAX_CERTIFICATE_SIZE} count")
    try:
        request = csr.CertificationRequest.load(request_der, strict=True)
        body = request["certification_request_info"]
        spki: bytes = body["subject_pk_info"].dump()
        extensions = _requested_extensions(body["attributes"])
        algorithm: str = request["signature_algorithm"]["algorithm"].native
        signature: bytes = request["signature"].native
        signed: bytes = body.dump()
    except MalformedEvidenceError:
        raise
    # asn1crypto decodes lazily and raises whatever its parts raise (ValueError, TypeError, KeyError, IndexError, …).
    except Exception as error:
        raise MalformedCertificateError(f"a certification request is not well-formed DER: {error}") from None
    return PresentedEvidence(
        spki=spki,
        items=_find(Bearer(spki, extensions), accept),
        certificate=None,
        proof=_request_signature(spki, algorithm, signature, signed),
    )


def check_bearer(presented: PresentedEvidence, policy: CertificatePolicy, at: datetime) -> tuple[Check, ...]:
    """The checks of what bears the evidence: signature, type of key, validity at `at`, critical extensions."""
    checks = Checks()
    checks.extend((presented.proof,))
    _check_key(checks, presented, policy.key_types)
    certificate = presented.certificate
    if certificate is None:
        return checks.made
    checks.expect(
        "ratls.validity",
        certificate.not_before - policy.clock_skew <= at <= certificate.not_after,
        passed=f"the certificate is valid until {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
        failed=f"the certificate is valid from {certificate.not_before:%Y-%m-%dT%H:%M:%SZ} to "
        f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}, not at {at:%Y-%m-%dT%H:%M:%SZ}",
    )
    lifetime = certificate.not_after - certificate.not_before
    checks.expect(
        "ratls.lifetime",
        lifetime <= policy.max_lifetime + policy.clock_skew,
        passed=f"the certificate lives for {lifetime}",
        failed=f"the certificate lives for {lifetime}; the policy admits {policy.max_lifetime_hours} hours",
    )
    evidence_oids = {oid for item in presented.items for oid in _READERS[item.convention][0]}
    if unknown := certificate.critical - _HARMLESS_CRITICAL - evidence_oids:
        checks.fail("ratls.critical", f"the certificate has a critical extension that is not known: {min(unknown)}")
    return checks.made


def _find(bearer: Bearer, accept: Conventions) -> tuple[Presented, ...]:
    accepted_oids = {oid for convention in accept for oid in _READERS[convention][0]}
    for convention, (oids, _) in _READERS.items():
        if strange := [oid for oid in oids if oid in bearer.extensions and oid not in accepted_oids]:
            raise UnsupportedEvidenceError(
                f"extension {strange[0]} is evidence by the convention {str(convention)!r}, which is not accepted"
            )
    # In the order of the enumeration: sets have none.
    items = tuple(item for name in Convention if name in accept for item in _READERS[name][1](bearer))
    if not items:
        raise UnsupportedEvidenceError(f"there is no evidence by {', '.join(sorted(accept)) or 'any convention'}")
    return items


def _self_signature(certificate: Certificate) -> Check:
    if certificate.issuer != certificate.subject:
        reason = f"signed by {certificate.issuer_name!r}, which is not looked at: the TLS handshake proves the key"
        return Check("ratls.signature", Outcome.NOTE, reason)
    if certificate.scheme is None:
        reason = f"self-signed with {certificate.algorithm}, which is not accepted"
        return Check("ratls.signature", Outcome.FAIL, reason)
    if signature_holds(certificate.public_key(), certificate.scheme, certificate.signature, certificate.signed):
        return Check("ratls.signature", Outcome.PASS, "self-signed by its own key")
    return Check("ratls.signature", Outcome.FAIL, "self-issued, but not signed by its own key")


def _request_signature(spki: bytes, algorithm: str, signature: bytes, signed: bytes) -> Check:
    key = load_public_key(spki)
    digest = _REQUEST_HASHES.get(algorithm)
    if digest is None or not isinstance(key, ec.EllipticCurvePublicKey):
        return Check("ratls.signature", Outcome.FAIL, f"the request is signed with {algorithm}, which is not accepted")
    try:
        key.verify(signature, signed, ec.ECDSA(digest()))
    except (InvalidSignature, ValueError):
        return Check("ratls.signature", Outcome.FAIL, "the request is not signed by its own key")
    return Check("ratls.signature", Outcome.PASS, "the request is signed by its own key")


def _check_key(checks: Checks, presented: PresentedEvidence, accepted: frozenset[KeyType]) -> None:
    if any(item.convention is Convention.KEEP_EVIDENCE for item in presented.items):
        accepted -= {KeyType.RSA}
    found: KeyType | None = None
    match load_public_key(presented.spki):
        case ec.EllipticCurvePublicKey() as key:
            name, found = key.curve.name, _CURVES.get(key.curve.name)
        case rsa.RSAPublicKey() as key:
            name, found = f"RSA-{key.key_size}", KeyType.RSA if key.key_size >= _MIN_RSA_BITS else None
        case other:
            name = type(other).__name__
    kinds = sorted(f"RSA of {_MIN_RSA_BITS} bits or more" if kind is KeyType.RSA else str(kind) for kind in accepted)
    wanted = " or ".join(kinds) or "of any type that such a certificate may have"
    checks.expect(
        "ratls.key-type",
        found in accepted,
        passed=f"the key is of type {name}",
        failed=f"the key is of type {name}, not {wanted}",
    )


def _requested_extensions(attributes: Any) -> dict[str, bytes]:
    extensions: dict[str, bytes] = {}
    for attribute in attributes:
        if attribute["type"].dotted != _EXTENSION_REQUEST:
            continue
        for requested in attribute["values"]:
            for extension in requested:
                oid = extension["extn_id"].dotted
                if oid in extensions:
                    raise MalformedCertificateError(f"a certification request has extension {oid} twice")
                extensions[oid] = extension["extn_value"].contents
    return extensions
