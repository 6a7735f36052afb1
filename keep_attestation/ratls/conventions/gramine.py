"""Gramine's older RA-TLS certificates: a bare quote bound to SHA-256 of the key."""

from __future__ import annotations

import hashlib

from keep_attestation.evidence import Binding
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented, padded

EVIDENCE_OID = "0.6.9.42.840.113741.1337.6"
"""Meant as 1.2.840.113741.1337.6; but Gramine writes the DER of it, tag and length included, as an OID's content."""
EVIDENCE_OIDS = (EVIDENCE_OID,)


def read(bearer: Bearer) -> tuple[Presented, ...]:
    quote = bearer.extensions.get(EVIDENCE_OID)
    if quote is None:
        return ()
    return (
        Presented(
            convention=Convention.GRAMINE,
            evidence=quote_evidence(quote),
            binding=Binding(report_data=padded(hashlib.sha256(bearer.spki).digest())),
        ),
    )
