"""Whether one more run can be taken, and what can be run at all."""

from __future__ import annotations

from typing import Final

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import WorkloadKind

MAX_QUEUED: Final = 64
"""Runs that wait for others to end."""


def check_queue(active: int, queued: int) -> None:
    """Raise `RefusalError` when too many runs wait already."""
    if queued >= MAX_QUEUED:
        raise RefusalError(
            ErrorCode.TOO_MANY_REQUESTS,
            f"{active} runs are going and {queued} are queued",
            remedy="wait until some have ended",
        )


def check_runnable(kind: WorkloadKind) -> None:
    """Raise `RefusalError` for a workload that is no command."""
    if not kind.is_command:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_RUNNABLE,
            f"the workload is a {kind} and no command: it has nothing that could be run",
            remedy="call its functions with POST /v1/call/{function}",
        )
