"""What proves a keep to services that give out secrets: its attester, bound to what their protocol demands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from app_loader.attesters.interface import Attestation, Attester, Statement
from app_loader.errors import AttesterError
from app_loader.key_release.errors import KeyReleaseError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.key_broker import report_data


class BoundStatement(Statement):
    """Evidence over a digest that somebody else's protocol defines, in place of one over our claims."""

    @classmethod
    def over(cls, digest: bytes) -> BoundStatement:
        """A digest of at most 64 bytes."""
        return cls(claims=digest, spki=b"", nonce=None)

    @property
    def report_data(self) -> bytes:
        return report_data(self.claims)

    @property
    def qualifying_data(self) -> bytes:
        # A TPM takes no more than the size of its own digests; Trustee cuts there as well.
        return self.report_data[:32]


@dataclass(frozen=True)
class Proof:
    """The keep's attester, and what the keep claims at the moment."""

    attester: Attester
    claims: Callable[[], bytes]
    one_at_a_time: asyncio.Lock
    """Hardware answers one at a time, and slowly."""

    @property
    def kind(self) -> EvidenceKind:
        return self.attester.kind

    async def attest(self, statement: Statement) -> Attestation:
        """Raises `KeyReleaseError`."""
        await self.one_at_a_time.acquire()
        making = asyncio.create_task(asyncio.to_thread(self.attester.attest, statement))
        # Not before the hardware is done, whether or not the fetch that wants this has been given up.
        making.add_done_callback(self._release)
        try:
            return await asyncio.shield(making)
        except AttesterError as error:
            raise KeyReleaseError(f"the keep cannot prove itself: {error}") from None

    def _release(self, made: asyncio.Task[Attestation]) -> None:
        self.one_at_a_time.release()
        if not made.cancelled():
            # Looked at, so that asyncio does not complain of what nobody waits for any more.
            made.exception()
