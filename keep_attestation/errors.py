"""Everything that this package raises.

AttestationError
├── MalformedEvidenceError
│   ├── UnsupportedEvidenceError
│   └── MalformedCertificateError
├── PolicyError
├── EndorsementsError
├── ClockError
└── EvidenceRefusedError
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keep_attestation.verdict import Verdict


class AttestationError(Exception):
    """Base of this package's errors."""


class MalformedEvidenceError(AttestationError):
    """Evidence, a log or an endorsement is not of the layout that its kind demands."""


class UnsupportedEvidenceError(MalformedEvidenceError):
    """A version, product, algorithm or extension that no verifier here knows; named in the message."""


class MalformedCertificateError(MalformedEvidenceError):
    """A certificate or a CRL cannot be read."""


class PolicyError(AttestationError):
    """A policy file has an unknown field, a wrong value or no reference values."""


class EndorsementsError(AttestationError):
    """Certificates, CRLs or collateral cannot be fetched or read from where they were said to be."""


class ClockError(AttestationError):
    """This machine's clock is behind what is known to have passed, so no validity can be judged by it."""


class EvidenceRefusedError(AttestationError):
    """Evidence was verified and refused; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary)
        self.verdict = verdict
