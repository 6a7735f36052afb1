"""Writes RATS conceptual message wrappers (RFC 9999) as keeps send them: evidence, claims, endorsements and log.

Keeps write, verifiers read (`keep_attestation.ratls.cmw`); a keep imports no CBOR library for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import Final

from keep_protocol.evidence import CLAIMS_MEDIA_TYPE, CMW_COLLECTION_TYPE, CborItem, EvidenceKind, encode_cbor

COLLECTION_TYPE_KEY: Final = "__cmwc_t"
"""The key of a collection under which its own type stands (RFC 9999, section 3.3)."""


class Indicator(IntFlag):
    """What conceptual messages a record holds: its `ind` (RFC 9999, section 3.1)."""

    REFERENCE_VALUES = 1
    ENDORSEMENTS = 2
    EVIDENCE = 4
    ATTESTATION_RESULTS = 8
    APPRAISAL_POLICY = 16


class Label:
    """Keys of our collection."""

    EVIDENCE = "evidence"
    CLAIMS = "claims"
    ENDORSEMENTS = "endorsements"
    LOG = "log"


class EndorsementsKey:
    """Keys of the map in which endorsements travel."""

    CERTIFICATES = 1
    CRLS = 2
    COLLATERAL = 3


def build_collection(
    kind: EvidenceKind,
    evidence: bytes,
    claims: bytes,
    *,
    endorsements: bytes | None = None,
    log: bytes | None = None,
) -> bytes:
    """The collection of a keep in CBOR, for a certificate or an answer to a challenge.

    `claims` come from `encode_claims`, `endorsements` from `encode_endorsements`; both are carried as they are.
    """
    members: dict[str, CborItem] = {
        COLLECTION_TYPE_KEY: CMW_COLLECTION_TYPE,
        Label.EVIDENCE: [kind.media_type, evidence, int(Indicator.EVIDENCE)],
        Label.CLAIMS: [CLAIMS_MEDIA_TYPE, claims, int(Indicator.EVIDENCE)],
    }
    if endorsements is not None:
        members[Label.ENDORSEMENTS] = [kind.endorsements_media_type, endorsements, int(Indicator.ENDORSEMENTS)]
    if log is not None:
        members[Label.LOG] = [kind.log_media_type, log, int(Indicator.EVIDENCE)]
    return encode_cbor(members)


def encode_endorsements(
    *, certificates: Sequence[bytes] = (), crls: Sequence[bytes] = (), collateral: bytes | None = None
) -> bytes:
    """Certificates and CRLs in DER and Intel's collateral in JSON, as one CBOR map; what is absent is left out."""
    members: dict[int, CborItem] = {}
    if certificates:
        members[EndorsementsKey.CERTIFICATES] = list(certificates)
    if crls:
        members[EndorsementsKey.CRLS] = list(crls)
    if collateral is not None:
        members[EndorsementsKey.COLLATERAL] = collateral
    return encode_cbor(members)


def cmw_extension(collection: bytes) -> bytes:
    """The value of the certificate extension id-pe-cmw: the `cbor` choice, a DER OCTET STRING."""
    size = len(collection)
    if size < 0x80:
        return bytes((0x04, size)) + collection
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x04, 0x80 | len(length))) + length + collection
