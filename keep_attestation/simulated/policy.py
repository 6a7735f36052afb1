"""What a policy accepts of simulated evidence. Only development policies have such a table at all."""

from __future__ import annotations

import re

import msgspec

from keep_attestation.rules import OneOf, Rule

_MEASUREMENT = re.compile(r"[0-9a-f]{64}", re.ASCII)


class SimulatedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[simulated]`. That it exists accepts evidence which anybody can make: never in production."""

    measurements: tuple[str, ...] = ()
    """SHA-256 of keep code that is accepted, 64 hex digits in lower case. None given: everything is refused."""

    def __post_init__(self) -> None:
        for measurement in self.measurements:
            if not _MEASUREMENT.fullmatch(measurement):
                raise ValueError(
                    f"simulated.measurements: {measurement[:80]!r} is no measurement; write 64 hex digits in lower case"
                )

    def rules(self) -> tuple[Rule, ...]:
        return (OneOf("measurement", self.measurements, "simulated.measurement"),)
