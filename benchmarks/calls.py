"""Calls of a function in a keep that has it loaded, against the smallest request that the same keep answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_client import KeepClient
from tests.system.deployment import example

_TARGET = Target(Comparison.SPEED, 0.6)
_REQUESTS = 100
"""Of one reading."""


def measure(session: Session) -> list[Row | Omission]:
    """`add(i32, i32)` and `GET /v1/status` on a connection that is kept."""
    with (
        session.deployment() as deployment,
        session.client(deployment) as client,
        client.keep() as (_, keep),
    ):
        keep.load_workload(example("arithmetic"))
        _add(keep)
        calls, statuses = interleaved(
            session.rounds, lambda: _milliseconds(lambda: _add(keep)), lambda: _milliseconds(keep.status)
        )
    return [
        Row(
            "call `add(i32, i32)` in a warm keep, fresh instance each time, connection kept (SDK)",
            "`GET /v1/status` of the same keep",
            Sample("ms", calls),
            Sample("ms", statuses),
            _TARGET,
        )
    ]


def _add(keep: KeepClient) -> None:
    if keep.call("add", (40, 2)) != 42:
        raise RuntimeError("add does not add")


def _milliseconds(request: Callable[[], object]) -> float:
    """One request, as the mean of many."""
    started = time.perf_counter()
    for _ in range(_REQUESTS):
        request()
    return (time.perf_counter() - started) * 1000 / _REQUESTS
