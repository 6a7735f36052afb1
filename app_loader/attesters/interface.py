"""The seam to whatever makes evidence: hardware behind a device or a file system, or the simulation."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from keep_protocol.evidence import EvidenceKind, qualifying_data, report_data


class Statement(NamedTuple):
    """What evidence is to be bound to: encoded claims, and what Nitro documents carry beside them."""

    claims: bytes
    spki: bytes
    nonce: bytes | None

    @property
    def report_data(self) -> bytes:
        return report_data(self.claims)

    @property
    def qualifying_data(self) -> bytes:
        return qualifying_data(self.claims)


class Attestation(NamedTuple):
    """Evidence as the hardware gave it, with what it offers beside: endorsements encoded for a collection, a log."""

    evidence: bytes
    endorsements: bytes | None = None
    log: bytes | None = None


class Attester(Protocol):
    """Makes evidence of one kind."""

    @property
    def kind(self) -> EvidenceKind: ...

    def attest(self, statement: Statement) -> Attestation:
        """Blocks for as long as the hardware takes. Raises `AttesterError`."""
        ...
