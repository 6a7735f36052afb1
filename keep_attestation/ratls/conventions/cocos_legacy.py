"""Cocos AI before 2026-03-26: evidence bound to SHA3-512 of the key and of a nonce that the client sent as server name.

It is bound to no connection, so it can be relayed (CVE-2026-33697): what is accepted by it is a key, nothing fresh.
"""

from __future__ import annotations

import hashlib

from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Binding
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented

SNP_VTPM_OID = "2.99999.1.0"
AZURE_OID = "2.99999.1.1"
TDX_OID = "2.99999.1.2"
EVIDENCE_OIDS = (SNP_VTPM_OID, AZURE_OID, TDX_OID)


def read(bearer: Bearer) -> tuple[Presented, ...]:
    for oid, what in ((SNP_VTPM_OID, "protocol buffers of go-tpm-tools"), (AZURE_OID, "a token of Azure")):
        if oid in bearer.extensions:
            raise UnsupportedEvidenceError(f"{oid} of Cocos holds {what}, which is not read here; only TDX quotes are")
    quote = bearer.extensions.get(TDX_OID)
    if quote is None:
        return ()
    if not bearer.nonce:
        raise UnsupportedEvidenceError("evidence of Cocos is bound to a nonce, and none was given to compare with")
    return (
        Presented(
            convention=Convention.COCOS_LEGACY,
            evidence=quote_evidence(quote),
            binding=Binding(report_data=hashlib.sha3_512(bearer.spki + bearer.nonce).digest()),
        ),
    )
