"""From nothing to the first answer of a keep whose key was checked, against the bare start of an interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Client, Session
from keep_client import connect_keep

_TARGET = Target(Comparison.RATIO, 2.5, aim=1.8)
_INTERPRETER = (sys.executable, "-I", "-c", "import asyncio, ssl")


def measure(session: Session) -> list[Row | Omission]:
    """Create, connect, verify, at a client that runs already and has a connection to the manager."""
    with session.deployment() as deployment, session.client(deployment) as client:
        keep, interpreter = interleaved(session.rounds, lambda: _cold_keep(client), _spawn)
    return [
        Row(
            "create a cold keep (hardened) → first verified status, at the client (SDK)",
            'spawn of `.venv/bin/python -I -c "import asyncio, ssl"`',
            Sample("ms", keep),
            Sample("ms", interpreter),
            _TARGET,
        )
    ]


def _cold_keep(client: Client) -> float:
    started = time.perf_counter()
    keep = client.create()
    with connect_keep(client.manager, keep) as connection:
        connection.verify()
        elapsed = time.perf_counter() - started
    client.manager.remove_keep(keep.id)
    return elapsed * 1000


def _spawn() -> float:
    started = time.perf_counter()
    subprocess.run(_INTERPRETER, check=True)
    return (time.perf_counter() - started) * 1000
