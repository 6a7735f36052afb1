"""What a keep must prove before it is spoken to: to a policy, and about the spec that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from keep_attestation.endorsement_sources.interface import EndorsementSource
from keep_attestation.errors import AttestationError, ClockError
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict, verify_fresh, verify_peer
from keep_attestation.trusted_time import TimeFloor
from keep_client.errors import EvidenceRefusedError, ProtocolError
from keep_protocol.keep_api import KeepStatus

_TIME: Final = TimeFloor()
"""One for the process: what one keep's collateral shows counts for all."""


@dataclass(frozen=True, slots=True)
class AttestedPeer:
    """A keep that is accepted for what it is and not for where it is or who says so."""

    policy: Policy
    expected: ExpectedKeep
    sources: tuple[EndorsementSource, ...] = ()
    """Asked for endorsements that the keep does not send along."""
    observe: Callable[[PeerVerdict], None] | None = None
    """Gets every verdict, accepted or not."""
    time: TimeFloor = _TIME
    """What validity is judged by."""

    @property
    def label(self) -> str:
        """What has been shown, once a connection stands, for people."""
        return f"has proven itself to the policy {self.policy.name!r}"

    def check_certificate(self, der: bytes) -> None:
        """Phase one: the evidence in the certificate. Raises `EvidenceRefusedError`."""
        # A certificate is older than what is loaded: only fresh claims name the workload and its configuration.
        expected = msgspec.structs.replace(self.expected, workload_sha256=None, configuration_sha256=None)
        try:
            verdict = verify_peer(der, self.policy, expected=expected, at=self.time.now(), sources=self.sources)
        except ClockError as error:
            raise EvidenceRefusedError(str(error), None) from error
        except AttestationError as error:
            raise EvidenceRefusedError(f"the keep's certificate proves nothing: {error}", None) from error
        self._require(verdict)

    def check_fresh(self, collection: bytes, der: bytes, *, nonce: bytes, exporter: bytes) -> None:
        """Phase two: evidence bound to this connection. Raises `EvidenceRefusedError`."""
        try:
            verdict = verify_fresh(
                collection,
                der,
                nonce,
                exporter,
                self.policy,
                expected=self.expected,
                at=self.time.now(),
                sources=self.sources,
            )
        except ClockError as error:
            raise EvidenceRefusedError(str(error), None) from error
        except AttestationError as error:
            raise EvidenceRefusedError(f"the keep answers the challenge with no evidence: {error}", None) from error
        self._require(verdict)

    def check_status(self, status: KeepStatus) -> None:
        """Compare what a keep says about itself with what it has proven. Raises `ProtocolError`."""
        expected = self.expected.spec_sha256
        if expected is not None and status.spec_digest != expected.hex():
            raise ProtocolError(f"the keep says its spec is {status.spec_digest!a}, and its evidence {expected.hex()}")

    def _require(self, verdict: PeerVerdict) -> None:
        if self.observe is not None:
            self.observe(verdict)
        if not verdict.accepted:
            raise EvidenceRefusedError(f"the keep does not prove what it should: {verdict.verdict.summary}", verdict)
        self.time.learn(verdict.verdict)
