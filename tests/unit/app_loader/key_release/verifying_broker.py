"""A key broker that verifies: keep_attestation judges the evidence, and the claims must name the right spec."""

from __future__ import annotations

import base64
import json

from app_loader.attesters.code_measurement import measure_code
from keep_attestation.claims import decode_claims
from keep_attestation.errors import AttestationError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.verification import verify
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.key_release.broker import FakeBroker, Shown

_KINDS = {"sample": EvidenceKind.SIMULATED, "tpm": EvidenceKind.TPM}


def this_code() -> Policy:
    """Accepts simulated evidence of the code that runs here."""
    return parse_policy(f'name = "this code"\n[simulated]\nmeasurements = ["{measure_code().hex()}"]\n')


class VerifyingBroker(FakeBroker):
    """Gives out its resources to keeps of one spec that satisfy a policy."""

    def __init__(self, policy: Policy, spec_sha256: bytes | None) -> None:
        """Without `spec_sha256` keeps of any spec get them, as of a broker that knows nothing of claims."""
        super().__init__(accepts=self._verify)
        self.policy = policy
        self.spec_sha256 = spec_sha256
        self.refused: list[str] = []
        """Why, for each attestation that was not accepted."""

    def _verify(self, shown: Shown) -> bool:
        reason = self._objection(shown)
        if reason is not None:
            self.refused.append(reason)
        return reason is None

    def _objection(self, shown: Shown) -> str | None:
        body = shown.evidence.get("wasmkeep-simulated") or shown.evidence.get("wasmkeep-tpm")
        evidence = Evidence(kind=_KINDS[shown.tee], body=base64.b64decode(body, validate=True))
        padded = shown.digest + bytes(64 - len(shown.digest))
        verdict = verify(evidence, self.policy, binding=Binding(report_data=padded, qualifying_data=padded[:32]))
        if not verdict.accepted:
            return "; ".join(check.reason for check in verdict.failures)
        if self.spec_sha256 is None:
            return None if shown.additional == "" else "unknown additional evidence"
        try:
            claims = decode_claims(base64.b64decode(json.loads(shown.additional)["wasmkeep-claims"]))
        except (ValueError, KeyError, AttestationError) as error:
            return f"no claims: {error!r}"
        if claims.spec_sha256 != self.spec_sha256:
            return "another spec"
        return None
