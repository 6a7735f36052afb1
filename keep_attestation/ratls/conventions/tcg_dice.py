"""Interoperable RA-TLS (Confidential Computing Consortium): tagged CBOR evidence in 2.23.133.5.4.9.

The value is `60000([quote, claims])`; the quote is bound to the claims, the claims hold the key's hash.
"""

from __future__ import annotations

import hashlib
from typing import Any

from keep_attestation.cbor import decode_cbor, strip_tag
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented, padded
from keep_attestation.verdict import Check, Outcome

EVIDENCE_OID = "2.23.133.5.4.9"
ENDORSEMENTS_OID = "2.23.133.5.4.2"
EVIDENCE_OIDS = (EVIDENCE_OID,)

_QUOTE_TAG = 60000
_OTHER_TAGS = {60001: "a local TDREPORT, which proves nothing elsewhere", 60002: "a legacy SGX quote"}
_MAX_CLAIMS_SIZE = 64 * 1024
_KEY_CLAIM = "pubkey-hash"
_HASHES = {1: "sha256", 7: "sha384", 8: "sha512"}
"""Named information hash algorithms (IANA) that the specification admits."""


def read(bearer: Bearer) -> tuple[Presented, ...]:
    """The quote, bound to its claims in the first 32 bytes of report data and zeros in the rest."""
    value = bearer.extensions.get(EVIDENCE_OID)
    if value is None:
        return ()
    quote, claims = _quote_and_claims(value)
    algorithm, digest = _key_hash(claims)
    holds = hashlib.new(_HASHES[algorithm], bearer.spki).digest() == digest
    key = Check(
        "ratls.key",
        Outcome.PASS if holds else Outcome.FAIL,
        "the claims beside the quote hold the hash of this key"
        if holds
        else "the claims beside the quote hold the hash of another key: the evidence was taken from elsewhere",
    )
    checks = [key]
    if ENDORSEMENTS_OID in bearer.extensions:
        reason = "endorsements in the certificate are not read: they come from sources that the verifier chose"
        checks.append(Check("ratls.endorsements", Outcome.NOTE, reason))
    return (
        Presented(
            convention=Convention.TCG_DICE,
            evidence=quote_evidence(quote),
            binding=Binding(report_data=padded(hashlib.sha256(claims).digest())),
            checks=tuple(checks),
        ),
    )


def key_claims(spki: bytes) -> bytes:
    """The claims that hold nothing but the SHA-256 of `spki`, in the one encoding that SDKs produce."""
    digest = hashlib.sha256(spki).digest()
    return b"\xa1\x6b" + _KEY_CLAIM.encode() + b"\x58\x24" + b"\x82\x01\x58\x20" + digest


def _quote_and_claims(value: bytes) -> tuple[bytes, bytes]:
    for tag, meaning in _OTHER_TAGS.items():
        if strip_tag(value, tag) is not None:
            raise UnsupportedEvidenceError(f"{EVIDENCE_OID} holds tag {tag}: {meaning}")
    content = strip_tag(value, _QUOTE_TAG)
    if content is None:
        raise UnsupportedEvidenceError(f"{EVIDENCE_OID} holds no CBOR of tag {_QUOTE_TAG}")
    match decode_cbor(content, "tagged evidence"):
        case [bytes() as quote, bytes() as claims] if len(claims) <= _MAX_CLAIMS_SIZE:
            return quote, claims
    raise MalformedEvidenceError("tagged evidence is no array of a quote and claims")


def _key_hash(claims: bytes) -> tuple[int, bytes]:
    entries: Any = decode_cbor(claims, "claims of tagged evidence")
    encoded = entries.get(_KEY_CLAIM) if isinstance(entries, dict) else None
    if not isinstance(encoded, bytes):
        raise MalformedEvidenceError(f"claims of tagged evidence have no {_KEY_CLAIM!r}")
    match decode_cbor(encoded, _KEY_CLAIM):
        case [algorithm, bytes() as digest] if type(algorithm) is int:
            if algorithm in _HASHES:
                return algorithm, digest
            raise UnsupportedEvidenceError(f"the key is hashed with algorithm {algorithm}, which is not supported")
    raise MalformedEvidenceError(f"{_KEY_CLAIM!r} is no array of an algorithm and a hash")
