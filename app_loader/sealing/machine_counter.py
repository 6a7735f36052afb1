"""What a machine itself counts, so that it knows the latest of what a keep has sealed."""

from __future__ import annotations

from typing import Protocol

from keep_protocol.sealing_api import CounterSource


class MachineCounter(Protocol):
    """Numbers what is sealed, for each purpose on its own. What the host stores cannot set it back."""

    source: CounterSource

    def next(self, purpose: str) -> int:
        """A number for what is being sealed now; from here on it is the latest. Raises `SealingError`."""
        ...

    def check(self, purpose: str, number: int) -> None:
        """Raise `RollbackError` for everything but the latest, and when nothing proves which that is."""
        ...
