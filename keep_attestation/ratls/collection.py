"""Reads the collection that a keep puts into its certificate and into answers to challenges.

`keep_protocol.cmw.build_collection` writes it: evidence and claims, perhaps endorsements and an event log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keep_attestation.cbor import decode_cbor
from keep_attestation.claims import decode_claims
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.ratls.cmw import Record, Wrapper, WrapperCollection, decode_cbor_wrapper
from keep_protocol.cmw import EndorsementsKey, Indicator, Label
from keep_protocol.evidence import CLAIMS_MEDIA_TYPE, CMW_COLLECTION_TYPE, Claims, EvidenceKind

_KINDS = {kind.media_type: kind for kind in EvidenceKind}
_LABELS = frozenset({Label.EVIDENCE, Label.CLAIMS, Label.ENDORSEMENTS, Label.LOG})
_ENDORSEMENT_KEYS = frozenset({EndorsementsKey.CERTIFICATES, EndorsementsKey.CRLS, EndorsementsKey.COLLATERAL})
MAX_ENDORSEMENTS = 32
"""Certificates, and CRLs, in one set of endorsements."""


@dataclass(frozen=True, slots=True)
class KeepCollection:
    """What a keep shows. Nothing in it is verified yet; not even that evidence and claims belong together."""

    evidence: Evidence
    claims: Claims
    encoded_claims: bytes
    """The claims as they came: these bytes are what the evidence is bound to."""


def decode_collection(data: bytes) -> KeepCollection:
    """The collection in CBOR. Raises `MalformedEvidenceError`."""
    return collection_from(decode_cbor_wrapper(data))


def collection_from(wrapper: Wrapper) -> KeepCollection:
    """The collection in a decoded wrapper. Raises `MalformedEvidenceError`."""
    if not isinstance(wrapper, WrapperCollection):
        raise MalformedEvidenceError("a keep shows a collection, not a single record")
    if wrapper.collection_type != CMW_COLLECTION_TYPE:
        raise UnsupportedEvidenceError(
            f"the collection is of type {wrapper.collection_type!r}, not {CMW_COLLECTION_TYPE!r}"
        )
    if unknown := [label for label in wrapper.members if label not in _LABELS]:
        raise UnsupportedEvidenceError(f"the collection has an unknown member {unknown[0]!r}")
    body = _member(wrapper, Label.EVIDENCE, Indicator.EVIDENCE)
    kind = _KINDS.get(str(body.media_type))
    if kind is None:
        raise UnsupportedEvidenceError(f"the evidence is of an unknown media type: {body.media_type!r}")
    claims = _typed_member(wrapper, Label.CLAIMS, Indicator.EVIDENCE, CLAIMS_MEDIA_TYPE)
    endorsements = log = None
    if Label.ENDORSEMENTS in wrapper.members:
        endorsements = _typed_member(wrapper, Label.ENDORSEMENTS, Indicator.ENDORSEMENTS, kind.endorsements_media_type)
    if Label.LOG in wrapper.members:
        log = _typed_member(wrapper, Label.LOG, Indicator.EVIDENCE, kind.log_media_type)
    return KeepCollection(
        evidence=Evidence(
            kind=kind,
            body=body.value,
            endorsements=Endorsements() if endorsements is None else decode_endorsements(endorsements),
            log=log,
        ),
        claims=decode_claims(claims),
        encoded_claims=claims,
    )


def decode_endorsements(data: bytes) -> Endorsements:
    """What `keep_protocol.cmw.encode_endorsements` wrote. Raises `MalformedEvidenceError`."""
    entries = decode_cbor(data, "endorsements")
    if not isinstance(entries, dict):
        raise MalformedEvidenceError("endorsements are no CBOR map")
    # By type too: 1.0 and true equal 1 in Python.
    if unknown := [key for key in entries if type(key) is not int or key not in _ENDORSEMENT_KEYS]:
        raise UnsupportedEvidenceError(f"endorsements have an unknown key: {unknown[0]!r}")
    collateral = entries.get(EndorsementsKey.COLLATERAL)
    if collateral is not None and not isinstance(collateral, bytes):
        raise MalformedEvidenceError("endorsements: collateral is no byte string")
    return Endorsements(
        certificates=_list_of_octets(entries.get(EndorsementsKey.CERTIFICATES, []), "certificates"),
        crls=_list_of_octets(entries.get(EndorsementsKey.CRLS, []), "CRLs"),
        collateral=collateral,
    )


def _list_of_octets(value: Any, name: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENDORSEMENTS or not all(isinstance(v, bytes) for v in value):
        raise MalformedEvidenceError(f"endorsements: {name} are no list of at most {MAX_ENDORSEMENTS} byte strings")
    return tuple(value)


def _member(wrapper: WrapperCollection, label: str, indicator: Indicator) -> Record:
    member = wrapper.members.get(label)
    if not isinstance(member, Record):
        raise MalformedEvidenceError(f"the collection has no record {label!r}")
    if member.indicator != indicator:
        raise MalformedEvidenceError(f"the record {label!r} has indicator {member.indicator!r}, not {indicator!r}")
    return member


def _typed_member(wrapper: WrapperCollection, label: str, indicator: Indicator, media_type: str) -> bytes:
    member = _member(wrapper, label, indicator)
    if member.media_type != media_type:
        raise MalformedEvidenceError(f"the record {label!r} is {member.media_type!r}, not {media_type!r}")
    return member.value
