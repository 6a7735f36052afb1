"""Whether one more run can be taken, and what can be run at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import WasmFeature, WorkloadKind

if TYPE_CHECKING:
    # Imported with the first run.
    from app_loader.run_plan import RunPlan

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


def check_runnable(kind: WorkloadKind, features: tuple[WasmFeature, ...], plan: RunPlan) -> None:
    """Raise `RefusalError` (`workload-not-runnable`) if a workload of this kind cannot be run so."""
    if not kind.is_command:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_RUNNABLE,
            f"the workload is a {kind} and no command: it has nothing that could be run",
            remedy="call its functions with POST /v1/call/{function}",
        )
    if plan.shimmed:
        check_sockets(kind, features)


def check_sockets(kind: WorkloadKind, features: tuple[WasmFeature, ...]) -> None:
    """Raise `RefusalError` (`workload-not-runnable`) if sockets are configured for what can have none."""
    if kind.is_component:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_RUNNABLE,
            "the workload's configuration gives it sockets in `files`, and it is a component: its `wasi:sockets` "
            "refuse every socket, and only modules for WASI preview 1 have those of `files`",
            field="$.files",
            remedy="take `files` out of the configuration, or build the workload for wasm32-wasip1",
        )
    if WasmFeature.MEMORY64 in features:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_RUNNABLE,
            "the workload's configuration gives it sockets in `files`, and it needs memory64: sockets are for guests "
            "with memories of 32-bit addresses",
            field="$.files",
            remedy="take `files` out of the configuration, or build the workload for wasm32-wasip1",
        )
