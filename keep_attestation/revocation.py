"""Judges the CRLs that came with evidence against the chain that the evidence rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from keep_attestation.certificates import Certificate, read_crl, revoked_by


def revocation_problem(chain: Sequence[Certificate], crls: Iterable[bytes], at: datetime) -> str | None:
    """Why `crls` (DER) forbid `chain` (leaf first, anchor last) at `at`, or None.

    A CRL by nobody in the chain, or one that is stale, forbids it too: whoever handed it over meant it to decide.
    Raises `MalformedCertificateError`.
    """
    for der in crls:
        revocations = read_crl(der)
        issuer = next((issuer for issuer in chain[1:] if issuer.subject == revocations.issuer), None)
        if issuer is None:
            return "a CRL was given that no certificate of the chain issued"
        issued = [certificate.serial for certificate in chain[:-1] if certificate.issuer == issuer.subject]
        if problem := revoked_by(revocations, issuer, issued, at):
            return problem
    return None


def revocation_covered(chain: Sequence[Certificate], crls: Iterable[bytes]) -> bool:
    """Whether every issuer in `chain` (leaf first, anchor last) has a CRL among `crls`.

    Raises `MalformedCertificateError`.
    """
    issuers = {read_crl(der).issuer for der in crls}
    return len(chain) > 1 and all(issuer.subject in issuers for issuer in chain[1:])
