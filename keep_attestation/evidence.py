"""Evidence as verifiers take it, what vouches for it, and what it must be bound to."""

from __future__ import annotations

import msgspec

from keep_attestation.verdict import Freshness
from keep_protocol.evidence import EvidenceKind, qualifying_data, report_data


class Endorsements(msgspec.Struct, frozen=True, kw_only=True):
    """What a manufacturer says about the hardware. From whoever hands it over: verifiers trust only pinned anchors."""

    certificates: tuple[bytes, ...] = ()
    """DER, in any order."""
    crls: tuple[bytes, ...] = ()
    """DER."""
    collateral: bytes | None = None
    """Intel's, as JSON with the members of dcap-qvl's `QuoteCollateralV3`."""

    def __add__(self, other: Endorsements) -> Endorsements:
        return Endorsements(
            certificates=tuple(dict.fromkeys(self.certificates + other.certificates)),
            crls=tuple(dict.fromkeys(self.crls + other.crls)),
            collateral=other.collateral if self.collateral is None else self.collateral,
        )


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of evidence, as the hardware gave it."""

    kind: EvidenceKind
    body: bytes
    """A report, a quote, a document; for TPMs and Azure the bundle of `keep_attestation.tpm.bundle`."""
    endorsements: Endorsements = Endorsements()
    log: bytes | None = None
    """The event log that explains its registers, where the kind has one."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence must carry. A verifier refuses when the member that its kind needs is None."""

    report_data: bytes | None = None
    """SNP, TDX, SGX and simulated: 64 bytes, all of them compared."""
    qualifying_data: bytes | None = None
    """TPM: the quote's extraData, all of it."""
    user_data: bytes | None = None
    public_key: bytes | None = None
    nonce: bytes | None = None
    """Nitro: the document's members of these names; None in `nonce` demands an absent or empty one."""
    freshness: Freshness = Freshness.KEY


def claims_binding(claims: bytes, spki: bytes, *, nonce: bytes | None, freshness: Freshness) -> Binding:
    """The binding of our own profile, for encoded `claims` (see `keep_protocol.evidence`)."""
    return Binding(
        report_data=report_data(claims),
        qualifying_data=qualifying_data(claims),
        user_data=claims,
        public_key=spki,
        nonce=nonce,
        freshness=freshness,
    )
