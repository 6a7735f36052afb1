"""A large component loaded again, also after a restart of its keep; Python source in a keep that has its runtime."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Client, Session
from keep_client import KeepClient, RuntimeBuildError, Source, connect_keep
from keep_client.python_runtime.building import build_runtime
from keep_protocol.keep_api import RunRequest
from tests.system.deployment import example

_SECOND = Target(Comparison.RATIO, 0.05)
_ONE_LINER = Target(Comparison.RATIO, 1.0)
_PROGRAM = "print(6 * 7)"
_FIRST_LOADS = 3
"""Each compiles for some ten seconds."""


def measure(session: Session) -> list[Row | Omission]:
    """The component is the Python runtime: 29 MB, of which some 20 are code."""
    try:
        runtime = Source.from_file(build_runtime(session.folder / "cache"))
    except RuntimeBuildError as error:
        return [Omission("a large component loaded again; Python in a keep", str(error))]
    with session.deployment() as deployment, session.client(deployment) as client:
        first, second, restarted = [], [], []
        for _ in range(1 if session.quick else _FIRST_LOADS):
            with client.keep() as (keep, connection):
                first.append(_load(connection, runtime))
                connection.load_workload(example("hello"))
                second.append(_load(connection, runtime))
                connection.load_workload(example("hello"))
                restarted.append(_after_restart(client, keep.id, runtime))
        with client.keep() as (_, connection):
            connection.load_python(_PROGRAM.encode(), runtime)
            in_keep, by_host = interleaved(5 * session.rounds, lambda: _in_keep(connection), _by_host)
    megabytes = runtime.size // 10**6
    against = "the first load, into a new keep"
    return [
        Row(
            f"a component of {megabytes} MB loaded again after another workload (SDK)",
            against,
            Sample("s", tuple(second)),
            Sample("s", tuple(first)),
            _SECOND,
        ),
        Row(
            f"a component of {megabytes} MB loaded again after another workload and a restart of the keep (SDK)",
            against,
            Sample("s", tuple(restarted)),
            Sample("s", tuple(first)),
            _SECOND,
        ),
        Row(
            f"run `{_PROGRAM}` as Python source in a warm keep: one request with `Prefer: wait`, connection kept (SDK)",
            f"`.venv/bin/python -I -c` on the host, {sys.version.split()[0]}, as a process",
            Sample("ms", in_keep),
            Sample("ms", by_host),
            _ONE_LINER,
        ),
    ]


def _load(keep: KeepClient, component: Source) -> float:
    started = time.perf_counter()
    keep.load_workload(component)
    return time.perf_counter() - started


def _after_restart(client: Client, keep: str, component: Source) -> float:
    client.manager.restart_keep(keep)
    with connect_keep(client.manager, keep) as connection:
        connection.verify()
        return _load(connection, component)


def _in_keep(keep: KeepClient) -> float:
    started = time.perf_counter()
    run = keep.start_run(RunRequest(program="app.py"), wait=30)
    elapsed = time.perf_counter() - started
    if run.exit is None or run.exit.code != 0 or run.stdout != 3:
        raise RuntimeError(f"the program did not end as expected: {run}")
    return elapsed * 1000


def _by_host() -> float:
    # Of the virtual environment: what others have put into the host's own site-packages may cost more than Python does.
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", _PROGRAM], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000
