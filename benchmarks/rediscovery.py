"""A manager that is killed and started again, with many living keeps and with none."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_client import ManagerClient
from keep_protocol.states import KeepState
from tests.system.deployment import Deployment

_TARGET = Target(Comparison.DIFFERENCE, 1.0)
_KEEPS = 200
_CREATORS = 4
_PATIENCE = 120.0
_POLL = 0.005


def measure(session: Session) -> list[Row | Omission]:
    """From the start of the process to the first list that shows every keep ready."""
    number = 10 if session.quick else _KEEPS
    with session.deployment() as crowded, session.deployment() as empty:
        _populate(session, crowded, number)
        found, alone = interleaved(session.rounds, lambda: _restart(crowded, number), lambda: _restart(empty, 0))
    return [
        Row(
            f"manager start → {number} living keeps rediscovered and listed as ready",
            "manager start with none → first list",
            Sample("s", found),
            Sample("s", alone),
            _TARGET,
        )
    ]


def _populate(session: Session, deployment: Deployment, number: int) -> None:
    with session.client(deployment) as client, ThreadPoolExecutor(_CREATORS) as pool:
        for future in [pool.submit(client.create) for _ in range(number)]:
            future.result()


def _restart(deployment: Deployment, number: int) -> float:
    deployment.kill_manager()
    started = time.perf_counter()
    deployment.serve()
    with ManagerClient.from_home(deployment.home) as manager:
        while _ready(manager) < number:
            if time.perf_counter() - started > _PATIENCE:
                raise RuntimeError(f"the manager has not found its {number} keeps within {_PATIENCE:g} s")
            time.sleep(_POLL)
        return time.perf_counter() - started


def _ready(manager: ManagerClient) -> int:
    listed = manager.list_keeps()
    return 0 if listed.stale else sum(keep.state is KeepState.READY for keep in listed.keeps)
