"""Where the system tests kill the manager: `WASMKEEP_FAULT=NAME` ends the process with SIGKILL at that point."""

from __future__ import annotations

import os
import signal

VARIABLE = "WASMKEEP_FAULT"

FAULT_POINTS = (
    "create:bound",
    "create:recorded",
    "launch:linked",
    "launch:network",
    "launch:handed-over",
    "launch:started",
    "launch:verified",
    "create:settled",
    "remove:announced",
    "remove:stopped",
    "remove:wiped",
    "remove:forgotten",
)


def fault_point(name: str) -> None:
    """Die here, without any clean-up, if the environment says so."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
