"""Judges a keep by the guest image that it should be: measurements come from files, not from what the keep shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keep_attestation.policy import policy_from
from keep_attestation.verdict import Check, Outcome
from keep_client import InvalidArgumentError
from keep_image.errors import ImageError
from keep_image.measurement.reference import MeasuredBackend, Shape
from keep_image.measurement.reference import reference_values as values_of_image
from keep_protocol.evidence import EvidenceKind
from testers.keepctl.attestation.reference_values import Facts, PolicyOfWhatIsThere, Table, reference_values

_BACKENDS = {
    EvidenceKind.TPM: MeasuredBackend.VTPM,
    EvidenceKind.SNP: MeasuredBackend.SNP,
    EvidenceKind.TDX: MeasuredBackend.TDX,
    EvidenceKind.NITRO: MeasuredBackend.NITRO,
}


@dataclass(frozen=True, kw_only=True)
class ExpectedImage:
    """A guest image and the machine that it is said to run in."""

    folder: Path
    memory: int
    """Bytes."""
    vcpus: int = 1
    firmware: Path | None = None
    allow_software_tpm: bool = False

    def tables(self, kind: EvidenceKind | None, spec_digest: str | None) -> dict[str, Table]:
        """Reference values by kind. Raises `InvalidArgumentError`."""
        if kind not in _BACKENDS:
            raise InvalidArgumentError(f"no image is measured by {kind or 'no'} evidence: leave --image out")
        try:
            shape = Shape(
                backend=_BACKENDS[kind],
                memory=self.memory,
                vcpus=self.vcpus,
                firmware=self.firmware,
                spec_digest=spec_digest,
            )
            return values_of_image(self.folder, shape)
        except ImageError as error:
            raise InvalidArgumentError(str(error)) from error


class PolicyOfAnImage(PolicyOfWhatIsThere, frozen=True):
    """Accepts a keep of this image alone; what no file tells (the machine's key) is taken as the keep shows it."""

    image: Mapping[str, Table] = msgspec.field(default_factory=dict)
    """Reference values by kind."""
    allow_software_tpm: bool = False

    def demanded(self, kind: EvidenceKind, facts: Facts) -> Table:
        """The table to judge by, and to pin."""
        table = _merged(reference_values(kind, facts, pin=True), self.image.get(kind.value, {}))
        if kind is EvidenceKind.TPM and self.allow_software_tpm:
            table["allow_unknown_ek"] = True
        return table

    def appraise(self, kind: EvidenceKind, facts: Facts) -> tuple[Check, ...]:
        if kind.value not in self.image:
            expected = ", ".join(self.image)
            return (Check("policy.kind", Outcome.FAIL, f"the image was measured for {expected}, this is {kind}"),)
        policy = policy_from({"name": self.name, kind.value: self.demanded(kind, facts)})
        return policy.appraise(kind, facts)


def _merged(seen: Mapping[str, Any], expected: Mapping[str, Any]) -> Table:
    """What is expected takes the place of what was seen, register by register."""
    merged = dict(seen)
    for key, value in expected.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
