"""What is demanded of certificates that carry evidence, whatever the evidence."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

import msgspec

from keep_attestation.ratls.presentation import OWN_CONVENTION, Convention, Conventions


class KeyType(StrEnum):
    """Public keys that certificates may have."""

    P256 = "P-256"
    P384 = "P-384"
    RSA = "RSA"
    """Of at least 3072 bits, and in others' certificates alone: ours have no RSA keys."""


class CertificatePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[certificate]`."""

    accept: Conventions = OWN_CONVENTION
    """Conventions by which evidence may come; only our own unless others are named."""
    key_types: frozenset[KeyType] = frozenset(KeyType)
    """Types of the key that evidence is bound to. RSA is of 3072 bits or more, and in others' certificates alone."""
    max_lifetime_hours: int = 24
    """The longest validity; others' certificates often live for decades, and so does whatever they prove."""
    max_evidence_age_hours: int = 24
    """How old the claims beside evidence may be by the keep's clock, without a nonce (phase one)."""
    clock_skew_seconds: int = 300
    """How far the clocks of keep and verifier may differ, and how long before its birth a certificate may be valid."""

    def __post_init__(self) -> None:
        if not self.accept:
            raise ValueError("certificate.accept: at least one convention must be accepted")
        if not self.key_types:
            raise ValueError("certificate.key_types: at least one type of key must be accepted")
        if {Convention.A3S, Convention.ENARX} <= self.accept:
            raise ValueError(
                "certificate.accept: a3s and enarx use the same identifiers for different things; accept one of them"
            )
        for name in ("max_lifetime_hours", "max_evidence_age_hours"):
            if getattr(self, name) < 1:
                raise ValueError(f"certificate.{name}: must be at least 1")
        if not 0 <= self.clock_skew_seconds <= 3600:
            raise ValueError("certificate.clock_skew_seconds: must be between 0 and 3600")

    @property
    def max_lifetime(self) -> timedelta:
        return timedelta(hours=self.max_lifetime_hours)

    @property
    def max_evidence_age(self) -> timedelta:
        return timedelta(hours=self.max_evidence_age_hours)

    @property
    def clock_skew(self) -> timedelta:
        return timedelta(seconds=self.clock_skew_seconds)
