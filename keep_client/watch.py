"""Verifies a keep again and again, each time on a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from keep_client.errors import ConnectionFailedError, KeepClientError, PeerRefusedError
from keep_client.keep import KeepClient


class WatchState(StrEnum):
    """What a watched keep has come to."""

    VERIFIED = "verified"
    FAILING = "failing"
    """It could not be verified, as often as is allowed."""
    FAILED = "failed"
    """It could not be verified too often. That is final: a keep that was not itself for a while is not itself again
    because it can prove something now; who looked into it starts another watch."""


class WatchReport(msgspec.Struct, frozen=True, kw_only=True):
    """One round of a watch. `reason` says why the keep could not be verified, or what it has shown."""

    at: datetime
    keep: str
    state: WatchState
    failures: int
    """Rounds without success, one after the other."""
    refused: bool
    """Whether the keep answered and was refused, rather than not reached."""
    reason: str


def watch_keep(
    connect: Callable[[], KeepClient],
    keep: str,
    *,
    interval: float,
    failures_allowed: int,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[WatchReport]:
    """A report for every round, `interval` seconds apart, until the keep has failed for good.

    `connect` makes a new client, so that evidence is fresh every time. More than `failures_allowed` rounds in a row
    without success are a failure for good.
    """
    failures = 0
    while True:
        refused = False
        try:
            with connect() as client:
                client.verify()
                reason = client.peer.label
            failures = 0
        except ConnectionFailedError as error:
            failures += 1
            reason = str(error)
        except KeepClientError as error:
            failures += 1
            refused = isinstance(error, PeerRefusedError)
            reason = str(error)
        state = WatchState.VERIFIED if failures == 0 else WatchState.FAILING
        if failures > failures_allowed:
            state = WatchState.FAILED
        yield WatchReport(
            at=datetime.now(UTC), keep=keep, state=state, failures=failures, refused=refused, reason=reason
        )
        if state is WatchState.FAILED:
            return
        pause(interval)
