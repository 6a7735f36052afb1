"""Guests that only compute, in a keep and in a bare wasmtime-py script of the same version."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
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
_GUESTS = {"sha256": "64", "matmul": "8", "fib": "41"}
"""By name, with the argument that makes it compute for about half a second."""


def measure(session: Session) -> list[Row | Omission]:
    """Each guest in a keep of its own."""
    with session.deployment() as deployment, session.client(deployment) as client:
        return [row for name, argument in _GUESTS.items() for row in _measure_guest(session, client, name, argument)]


def _measure_guest(session: Session, client: Client, name: str, argument: str) -> list[Row]:
    wasm = guest(f"cpu/{name}")
    program, module = wasmtime_cli.command(), wasmtime_cli.compiled(wasm, session.folder)
    with client.keep() as (_, keep):
        keep.load_workload(wasm)
        in_keep, bare, by_cli = (
            Sample("ms", values)
            for values in interleaved(
                session.rounds,
                lambda: _in_keep(keep, argument),
                lambda: _bare(wasm, argument),
                lambda: _by_cli(program, module, argument),
            )
        )
    script = f"`_start` alone, called by wasmtime-py {version('wasmtime')}"
    title = f"CPU-bound guest `{name} {argument}`"
    return [
        Row(f"{title} in a keep, from start to end of the run by its record", script, in_keep, bare, _TARGET),
        Row(f"{title} by the wasmtime CLI {wasmtime_cli.version()}, as a process", script, by_cli, bare, None),
    ]


def _in_keep(keep: KeepClient, argument: str) -> float:
    run = keep.start_run(RunRequest(args=(argument,)), wait=60)
    if run.exit is None or run.exit.reason is not ExitReason.CODE or run.exit.code != 0:
        raise RuntimeError(f"the guest did not end as expected: {run}")
    assert run.started_at is not None
    assert run.ended_at is not None
    return (datetime.fromisoformat(run.ended_at) - datetime.fromisoformat(run.started_at)).total_seconds() * 1000


def _bare(wasm: Path, argument: str) -> float:
    command = [sys.executable, "-I", bare_wasmtime.__file__, str(wasm), argument]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1000


def _by_cli(program: Path, module: Path, argument: str) -> float:
    command = [str(program), "run", "--allow-precompiled", str(module), argument]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000
