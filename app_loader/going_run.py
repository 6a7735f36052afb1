"""A run that is queued or going, and what belongs to it until it is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from app_loader.execution import Execution
from app_loader.workload_record import LoadedModule
from keep_protocol.keep_api import Run

if TYPE_CHECKING:
    # Imported with the first run, and with the first one that has sockets.
    from app_loader.run_plan import RunPlan
    from app_loader.run_sockets import RunSockets


class GoingRun(msgspec.Struct):
    """A run that is queued or going, with all that its record does not say."""

    run: Run
    plan: RunPlan
    module: LoadedModule
    execution: Execution
    sockets: RunSockets | None = None
    over: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    @property
    def current(self) -> Run:
        """Its record as of now."""
        outputs = self.execution.outputs
        return msgspec.structs.replace(
            self.run, stdout=outputs["stdout"].size, stderr=outputs["stderr"].size, usage=self.execution.usage
        )

    def take_sockets(self) -> tuple[int, ...]:
        """Its descriptors for its process, none if it has none; they become the caller's."""
        return () if self.sockets is None else self.sockets.take()

    def close_sockets(self) -> None:
        """Nothing happens if it has none."""
        if self.sockets is not None:
            self.sockets.close()
            self.sockets = None
