"""Writes the state of a machine's devices into a file, and lets another machine go on from it.

The guest's memory is not in it, for it is in a file of its own: QEMU's capability `x-ignore-shared`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.monitor import Monitor

_POLL: Final = 0.005
_STATE: Final = "state"
_BANDWIDTH: Final = 1 << 40
"""Bytes a second, so that nothing is held back: a file takes what it is given."""


async def freeze(monitor: Monitor, state: int) -> None:
    """Stop the machine and write its state. Raises `MachineError`."""
    await monitor.execute("stop")
    await _leave_memory_out(monitor)
    await monitor.execute("migrate-set-parameters", **{"max-bandwidth": _BANDWIDTH})
    await monitor.give(_STATE, state)
    await monitor.execute("migrate", uri=f"fd:{_STATE}")
    await _await_end(monitor)


async def thaw(monitor: Monitor, state: int) -> None:
    """Let a machine that was started for it (`-incoming defer`) go on from a state. Raises `MachineError`."""
    await _leave_memory_out(monitor)
    await monitor.give(_STATE, state)
    await monitor.execute("migrate-incoming", uri=f"fd:{_STATE}")
    await _await_end(monitor)
    # The state says that the machine was stopped, and so it is.
    await monitor.execute("cont")


async def _leave_memory_out(monitor: Monitor) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    await monitor.execute("migrate-set-capabilities", capabilities=[capability])


async def _await_end(monitor: Monitor) -> None:
    while (found := await monitor.execute("query-migrate")).get("status") != "completed":
        if found.get("status") == "failed":
            raise MachineError(f"qemu-refused: {found.get('error-desc', 'its state cannot be moved')}")
        # There are events for it, which come only with a capability that QEMU 7.2 has and later ones deprecate.
        await asyncio.sleep(_POLL)
