"""The memory that one more keep costs: idle and empty, and idle after a run."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target
from benchmarks.processes import settled_memory, tree
from benchmarks.session import Client, Session
from keep_protocol.keep_api import RunRequest
from keep_protocol.manager_api import Keep
from tests.system.deployment import example

_EMPTY = Target(Comparison.VALUE, 13, aim=10)
_AFTER_RUN = Target(Comparison.VALUE, 20, aim=12)

_ALIVE = 4
"""Keeps that share what can be shared."""


def measure(session: Session) -> list[Row | Omission]:
    """Several generations of a few keeps, every keep read once."""
    empty: list[float] = []
    after_run: list[float] = []
    with session.deployment() as deployment, session.client(deployment) as client:
        while len(empty) < session.rounds:
            _measure_generation(client, empty, after_run)
    processes = f"– ({_ALIVE} keeps alive; USS of all processes of one)"
    return [
        Row("memory of an idle keep, empty", processes, Sample.of("MiB", empty), None, _EMPTY),
        Row("memory of an idle keep after a run of hello", processes, Sample.of("MiB", after_run), None, _AFTER_RUN),
    ]


def _measure_generation(client: Client, empty: list[float], after_run: list[float]) -> None:
    with ExitStack() as stack:
        keeps = [stack.enter_context(client.keep()) for _ in range(_ALIVE)]
        empty += [_settled(keep) for keep, _ in keeps]
        for _, connection in keeps:
            connection.load_workload(example("hello"))
            connection.start_run(RunRequest(), wait=30)
        after_run += [_settled(keep) for keep, _ in keeps]


def _settled(keep: Keep) -> float:
    if (server := keep.pid) is None:
        raise RuntimeError("a keep that is ready has no process")
    return settled_memory(lambda: tree(server))
