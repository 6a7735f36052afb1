"""Our own convention: a collection of evidence and claims in id-pe-cmw (RFC 9999, section 6.2)."""

from __future__ import annotations

from keep_attestation.evidence import claims_binding
from keep_attestation.ratls.cmw import decode_extension
from keep_attestation.ratls.collection import collection_from
from keep_attestation.ratls.presentation import Bearer, Convention, Presented
from keep_attestation.verdict import Freshness
from keep_protocol.evidence import CMW_OID

EVIDENCE_OIDS = (CMW_OID,)


def read(bearer: Bearer) -> tuple[Presented, ...]:
    """Evidence bound to the claims beside it; whether these are of this key, `verify_peer` checks."""
    value = bearer.extensions.get(CMW_OID)
    if value is None:
        return ()
    wrapper, _ = decode_extension(value)
    collection = collection_from(wrapper)
    binding = claims_binding(collection.encoded_claims, bearer.spki, nonce=None, freshness=Freshness.KEY)
    return (
        Presented(
            convention=Convention.KEEP_EVIDENCE,
            evidence=collection.evidence,
            binding=binding,
            claims=collection.claims,
        ),
    )
