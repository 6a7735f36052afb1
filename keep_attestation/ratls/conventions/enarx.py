"""Enarx keeps, as they apply to Steward for certificates: SGX and SNP evidence under enterprise number 58270.

SNP: `SEQUENCE { SEQUENCE { VCEK, CRLs }, OCTET STRING report }`, bound to SHA-384 of the key.
SGX: `SEQUENCE { OCTET STRING quote, … }`, bound to SHA-256 of the key.
"""

from __future__ import annotations

import hashlib

from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented, padded
from keep_attestation.signatures import load_public_key
from keep_attestation.verdict import Check, Outcome
from keep_protocol.evidence import EvidenceKind

KVM_OID = "1.3.6.1.4.1.58270.1.1"
SGX_OID = "1.3.6.1.4.1.58270.1.2"
SNP_OID = "1.3.6.1.4.1.58270.1.3"
EVIDENCE_OIDS = (KVM_OID, SGX_OID, SNP_OID)


class _Elements(core.SequenceOf):  # type: ignore[misc]  # asn1crypto has no types
    _child_spec = core.Any


def read(bearer: Bearer) -> tuple[Presented, ...]:
    if KVM_OID in bearer.extensions:
        raise UnsupportedEvidenceError(f"{KVM_OID} is Enarx without hardware: it proves nothing")
    presented = []
    if SGX_OID in bearer.extensions:
        presented.append(_sgx(bearer, bearer.extensions[SGX_OID]))
    if SNP_OID in bearer.extensions:
        presented.append(_snp(bearer, bearer.extensions[SNP_OID]))
    return tuple(presented)


def _sgx(bearer: Bearer, value: bytes) -> Presented:
    elements = _elements(value)
    # The collateral beside it lacks the identity of the quoting enclave; it has to come from a source.
    return Presented(
        convention=Convention.ENARX,
        evidence=quote_evidence(_octets(elements[0])),
        binding=Binding(report_data=padded(hashlib.sha256(bearer.spki).digest())),
        checks=(_key_type(bearer, ec.SECP256R1.name, "the PCK"),),
    )


def _snp(bearer: Bearer, value: bytes) -> Presented:
    elements = _elements(value)
    if len(elements) != 2:
        raise MalformedEvidenceError(f"{SNP_OID} has {len(elements)} elements, not endorsements and a report")
    vcek = _elements(elements[0])[0]
    # The CRLs beside the VCEK are of all product lines, mostly stale, and the peer could as well have left them out.
    return Presented(
        convention=Convention.ENARX,
        evidence=Evidence(
            kind=EvidenceKind.SNP, body=_octets(elements[1]), endorsements=Endorsements(certificates=(vcek,))
        ),
        binding=Binding(report_data=padded(hashlib.sha384(bearer.spki).digest())),
        checks=(_key_type(bearer, ec.SECP384R1.name, "the VCEK"),),
    )


def _key_type(bearer: Bearer, curve: str, endorser: str) -> Check:
    key = load_public_key(bearer.spki)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve:
        return Check("ratls.enarx-key", Outcome.PASS, f"the key is of the same type as {endorser}")
    return Check("ratls.enarx-key", Outcome.FAIL, f"the key is not of {curve}, the type of {endorser}")


def _elements(der: bytes) -> list[bytes]:
    try:
        elements = [element.dump() for element in _Elements.load(der, strict=True)]
    except (ValueError, TypeError) as error:
        raise MalformedEvidenceError(f"Enarx evidence is not well-formed DER: {error}") from None
    if not elements:
        raise MalformedEvidenceError("Enarx evidence holds an empty SEQUENCE")
    return elements


def _octets(der: bytes) -> bytes:
    try:
        octets: bytes = core.OctetString.load(der, strict=True).native
    except (ValueError, TypeError) as error:
        raise MalformedEvidenceError(f"Enarx evidence holds no OCTET STRING: {error}") from None
    return octets
