"""Guests that only compute, in a keep and in a bare wasmtime-py script of the same version."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import bare_wasmtime, wasmtime_cli
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Client, Session
from keep_client import KeepClient
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import ExitReason
from tests.system.deployment import guest

_TARGET = Target(Comparison.RATIO, 1.03)
_GUESTS = ("sha256", "matmul", "fib")


def measure(session: Session) -> list[Row | Omission]:
    """Three guests of half a second to a second each."""
    with session.deployment() as deployment, session.client(deployment) as client:
        return [row for name in _GUESTS for row in _measure_guest(session, client, name)]


def _measure_guest(session: Session, client: Client, name: str) -> list[Row]:
    wasm = guest(f"cpu/{name}")
    program, module = wasmtime_cli.command(), wasmtime_cli.compiled(wasm, session.folder)
    with client.keep() as (_, keep):
        keep.load_workload(wasm)
        in_keep, bare, by_cli = (
            Sample("ms", values)
            for values in interleaved(
                session.rounds,
                lambda: _in_keep(keep),
                lambda: _bare(wasm),
                lambda: _by_cli(program, module),
            )
        )
    script = f"`_start` alone, called by wasmtime-py {version('wasmtime')}"
    return [
        Row(f"CPU-bound guest `{name}` in a keep, request → exit code (SDK)", script, in_keep, bare, _TARGET),
        Row(f"… the same by the wasmtime CLI {wasmtime_cli.version()}, as a process", script, by_cli, bare, None),
    ]


def _in_keep(keep: KeepClient) -> float:
    started = time.perf_counter()
    run = keep.start_run(RunRequest(), wait=60)
    elapsed = time.perf_counter() - started
    if run.exit is None or run.exit.reason is not ExitReason.CODE or run.exit.code != 0:
        raise RuntimeError(f"the guest did not end as expected: {run}")
    return elapsed * 1000


def _bare(wasm: Path) -> float:
    command = [sys.executable, "-I", bare_wasmtime.__file__, str(wasm)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1000


def _by_cli(program: Path, module: Path) -> float:
    started = time.perf_counter()
    subprocess.run([program, "run", "--allow-precompiled", module], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000
