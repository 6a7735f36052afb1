"""Certificates of Intel's SGX SDK: a bare quote bound to claims that hold the key's hash and nothing else.

The claims are not in the extension. They are computed anew, in the one encoding that the SDK produces.
"""

from __future__ import annotations

import hashlib

from keep_attestation.evidence import Binding
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.conventions.tcg_dice import key_claims
from keep_attestation.ratls.presentation import Bearer, Convention, Presented, padded

EVIDENCE_OID = "1.2.840.113741.1.13.1"
"""Intel uses the same identifier for the SGX extension of PCK certificates, which are no peers' certificates."""
EVIDENCE_OIDS = (EVIDENCE_OID,)


def read(bearer: Bearer) -> tuple[Presented, ...]:
    quote = bearer.extensions.get(EVIDENCE_OID)
    if quote is None:
        return ()
    claims = key_claims(bearer.spki)
    return (
        Presented(
            convention=Convention.INTEL_SDK,
            evidence=quote_evidence(quote),
            binding=Binding(report_data=padded(hashlib.sha256(claims).digest())),
        ),
    )
