"""The exit status of `keepctl run`, as docker, wasmtime and timeout(1) use them."""

from __future__ import annotations

from keep_protocol.keep_api import RunExit
from keep_protocol.states import ExitReason
from testers.deployment import printable

FAILED = 125
"""An error that is not the guest's."""

NOT_RUNNABLE = 1
"""The file is nothing that can be run; Enarx ended so."""

_STATUS = {
    ExitReason.TRAP: 134,
    ExitReason.TIMEOUT: 124,
    ExitReason.MEMORY: 137,
    ExitReason.STOPPED: 143,
    ExitReason.OUTPUT_LIMIT: FAILED,
    ExitReason.LOST: FAILED,
}

_WORDS = {
    ExitReason.TRAP: "the guest trapped",
    ExitReason.TIMEOUT: "the run was ended by its time limit (--timeout)",
    ExitReason.MEMORY: "the run needed more memory than it may use (--memory)",
    ExitReason.STOPPED: "the run was stopped",
    ExitReason.OUTPUT_LIMIT: "the run was ended because it wrote more than it may",
    ExitReason.LOST: "the run was lost",
}


def exit_status(ended: RunExit) -> int:
    """The status for this end. A process has 8 bits for it: of larger codes the low ones, but never 0."""
    if ended.reason is ExitReason.CODE and ended.code is not None:
        return ended.code if 0 <= ended.code < 256 else (ended.code & 0xFF) or 1
    return _STATUS.get(ended.reason, FAILED)


def explanation(ended: RunExit) -> str:
    """What to say about it, a backtrace in lines of its own; empty when the status says it all."""
    if ended.reason is ExitReason.CODE:
        return _code_explanation(ended)
    detail = ": ".join(filter(None, (ended.trap, ended.message)))
    first = f"{_WORDS[ended.reason]}: {detail}" if detail else _WORDS[ended.reason]
    return "\n    ".join(map(printable, (first, *ended.backtrace)))


def _code_explanation(ended: RunExit) -> str:
    if ended.code is None:
        return "the keep does not say with which code the guest exited"
    if exit_status(ended) != ended.code:
        return f"the guest exited with {ended.code}, which does not fit: the status is {exit_status(ended)}"
    return ""
