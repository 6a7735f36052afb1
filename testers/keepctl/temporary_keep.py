"""A keep for one run: whatever happens, it is removed again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keep_client import ConnectionFailedError, KeepClientError, ManagerClient, ProblemError
from keep_protocol.errors import ErrorCode
from keep_protocol.manager_api import Keep
from keep_protocol.spec import KeepSpec
from testers.deployment import error_line
from testers.keepctl.console import say
from testers.keepctl.interruption import ignore_signals

REMOVAL_PATIENCE = 30.0
"""Seconds for which removing is tried: the manager may be restarting, or still be starting the keep."""

PAUSE = 0.5


@contextmanager
def temporary_keep(manager: ManagerClient, spec: KeepSpec) -> Iterator[Keep]:
    """A new keep for as long as the block lasts; to be used in a block of `interruptible`."""
    # It gets a name beforehand: so it can be removed even when the answer with its id never came.
    name = f"run-{secrets.token_hex(6)}"
    try:
        try:
            yield manager.create_keep(spec, name=name)
        finally:
            ignore_signals()
    finally:
        _remove(manager, name)


def _remove(manager: ManagerClient, name: str) -> None:
    deadline = time.monotonic() + REMOVAL_PATIENCE
    while True:
        try:
            manager.remove_keep(name)
            return
        except KeepClientError as error:
            if isinstance(error, ProblemError) and error.code == ErrorCode.KEEP_NOT_FOUND:
                return
            if not _may_succeed_later(error) or time.monotonic() > deadline:
                say(f"keep {name} is still there ({error_line(error)}): remove it with `keepctl rm {name}`")
                return
        time.sleep(PAUSE)


def _may_succeed_later(error: KeepClientError) -> bool:
    if isinstance(error, ProblemError):
        return error.code in (ErrorCode.KEEP_STATE_CONFLICT, ErrorCode.SUPERVISOR_UNAVAILABLE)
    return isinstance(error, ConnectionFailedError)
