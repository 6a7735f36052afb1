"""A3S Box: a bare SNP report bound to SHA-256 of the key, under identifiers that Enarx uses for other things."""

from __future__ import annotations

import hashlib

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.ratls.presentation import Bearer, Convention, Presented, padded
from keep_attestation.verdict import Check, Outcome
from keep_protocol.evidence import EvidenceKind

REPORT_OID = "1.3.6.1.4.1.58270.1.1"
CHAIN_OID = "1.3.6.1.4.1.58270.1.2"
EVIDENCE_OIDS = (REPORT_OID, CHAIN_OID)


def read(bearer: Bearer) -> tuple[Presented, ...]:
    report = bearer.extensions.get(REPORT_OID)
    if report is None:
        return ()
    checks: tuple[Check, ...] = ()
    if CHAIN_OID in bearer.extensions:
        reason = "the chain in the certificate is not read: it comes from sources that the verifier chose"
        checks = (Check("ratls.endorsements", Outcome.NOTE, reason),)
    return (
        Presented(
            convention=Convention.A3S,
            # A simulated A3S report is a report of version 0xA3: the verifier of reports refuses it by its version.
            evidence=Evidence(kind=EvidenceKind.SNP, body=report),
            binding=Binding(report_data=padded(hashlib.sha256(bearer.spki).digest())),
            checks=checks,
        ),
    )
