"""What a keep seals with, found when it is first wanted: most keys cost a file, some a question to hardware."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec

if TYPE_CHECKING:
    from app_loader.evidence import EvidenceMaker
    from app_loader.sealing.sealer import Sealer


class SealerSource:
    """The one sealer of a keep."""

    def __init__(
        self, configuration: Configuration, spec: KeepSpec, state: Path | None, evidence: EvidenceMaker | None
    ) -> None:
        self._configuration = configuration
        self._spec = spec
        self._state = state
        self.evidence = evidence
        self._sealer: Sealer | None = None
        self.hardware = asyncio.Lock()
        """Hardware answers one at a time, and slowly."""

    def find(self) -> Sealer:
        """Blocks while hardware works, which `hardware` has to be held for. Raises `SealingError`."""
        if self._sealer is None:
            from app_loader.sealing.errors import SealingUnavailableError
            from app_loader.sealing.selection import find_sealer

            if self._state is None:
                raise SealingUnavailableError("this keep has no folder for its state")
            attester = None if self.evidence is None else self.evidence.attester
            self._sealer = find_sealer(
                self._spec, self._configuration.id, self._state, self._configuration.sealing_keys, attester
            )
        return self._sealer

    async def get(self) -> Sealer:
        """Raises `SealingError`."""
        async with self.hardware:
            return await asyncio.to_thread(self.find) if self._sealer is None else self._sealer
