"""dstack: a quote in an OCTET STRING, bound to SHA-512 over a tag and the key."""

from __future__ import annotations

import hashlib

from keep_attestation.certificates import octet_string
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Binding
from keep_attestation.ratls.conventions.intel_quote import quote_evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented
from keep_attestation.verdict import Check, Outcome

QUOTE_OID = "1.3.6.1.4.1.62397.1.1"
EVENT_LOG_OID = "1.3.6.1.4.1.62397.1.2"
ATTESTATION_OID = "1.3.6.1.4.1.62397.1.8"
EVIDENCE_OIDS = (QUOTE_OID, ATTESTATION_OID)

_TAG = b"ratls-cert:"


def read(bearer: Bearer) -> tuple[Presented, ...]:
    if ATTESTATION_OID in bearer.extensions:
        raise UnsupportedEvidenceError(
            f"{ATTESTATION_OID} of dstack holds SCALE, which is not read here; certificates with {QUOTE_OID} are"
        )
    value = bearer.extensions.get(QUOTE_OID)
    if value is None:
        return ()
    checks: tuple[Check, ...] = ()
    if EVENT_LOG_OID in bearer.extensions:
        # Not a CCEL: it is JSON of digests, which only dstack's own rules can explain.
        reason = "dstack's event log is not replayed: state the registers themselves in the policy"
        checks = (Check("ratls.log", Outcome.NOTE, reason),)
    return (
        Presented(
            convention=Convention.DSTACK,
            evidence=quote_evidence(octet_string(value)),
            binding=Binding(report_data=hashlib.sha512(_TAG + bearer.spki).digest()),
            checks=checks,
        ),
    )
