"""A run of hello in a keep that has it loaded, against the wasmtime CLI with the module compiled before."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks import wasmtime_cli
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_client import KeepClient
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import ExitReason
from tests.system.deployment import example

_TARGET = Target(Comparison.RATIO, 1.1, aim=0.75)


def measure(session: Session) -> list[Row | Omission]:
    """One `POST /v1/runs` with `Prefer: wait` on a connection that is kept, until the exit code is there."""
    hello = example("hello")
    program, module = wasmtime_cli.command(), wasmtime_cli.compiled(hello, session.folder)
    with (
        session.deployment() as deployment,
        session.client(deployment) as client,
        client.keep() as (_, keep),
    ):
        keep.load_workload(hello)
        in_keep, by_cli = interleaved(5 * session.rounds, lambda: _in_keep(keep), lambda: _by_cli(program, module))
    return [
        Row(
            "run hello in a warm keep: one request with `Prefer: wait` → exit code, connection kept (SDK)",
            f"`wasmtime run --allow-precompiled hello.cwasm` {wasmtime_cli.version()} as a process",
            Sample("ms", in_keep),
            Sample("ms", by_cli),
            _TARGET,
        )
    ]


def _in_keep(keep: KeepClient) -> float:
    started = time.perf_counter()
    run = keep.start_run(RunRequest(), wait=30)
    elapsed = time.perf_counter() - started
    if run.exit is None or run.exit.reason is not ExitReason.CODE or run.exit.code != 0:
        raise RuntimeError(f"hello did not end as expected: {run}")
    return elapsed * 1000


def _by_cli(program: Path, module: Path) -> float:
    started = time.perf_counter()
    subprocess.run([program, "run", "--allow-precompiled", module], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000
