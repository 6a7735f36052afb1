"""HTTP requests that a component answers, a fresh instance each, against `wasmtime serve` of the same component."""

from __future__ import annotations

import http.client
import math
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks import wasmtime_cli
from benchmarks.componentize import GREETING, hello_component
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_client import Credentials, Home, KeepClient, KeepPin
from keep_client.tls import keep_context

_SPEED = Target(Comparison.SPEED, 0.25, 0.5)
_TAIL = Target(Comparison.RATIO, 4)
_REQUESTS = 100
"""Of one reading."""
_PATIENCE = 60.0


def measure(session: Session) -> list[Row | Omission]:
    """One client that asks again and again over a connection that is kept; the same one for both."""
    what = "HTTP hello of a Python component, fresh instance each time, connection kept"
    try:
        component = hello_component(session.folder)
    except (OSError, subprocess.CalledProcessError) as error:
        return [Omission(what, f"componentize-py cannot build the component: {error}")]
    with (
        session.deployment() as deployment,
        session.client(deployment) as client,
        client.keep() as (_, keep),
        _wasmtime_serve(component, session.folder) as port,
    ):
        keep.load_workload(component)
        ours = _Asker(_connection(keep, Home(deployment.home).operator), "/v1/http/")
        theirs = _Asker(http.client.HTTPConnection("127.0.0.1", port), "/")
        with closing(ours.connection), closing(theirs.connection):
            interleaved(session.rounds, ours.reading, theirs.reading)
    against = f"`wasmtime serve` {wasmtime_cli.version()} with the same component, compiled before"
    return [
        Row(what, against, Sample.of("ms", ours.means()), Sample.of("ms", theirs.means()), _SPEED),
        Row(f"{what}: p99", against, Sample.of("ms", ours.tails()), Sample.of("ms", theirs.tails()), _TAIL),
    ]


def _connection(keep: KeepClient, credentials: Credentials) -> http.client.HTTPSConnection:
    assert isinstance(keep.peer, KeepPin)
    return http.client.HTTPSConnection(keep.endpoint, context=keep_context(keep.peer, credentials))


@contextmanager
def _wasmtime_serve(component: Path, folder: Path) -> Iterator[int]:
    """The port of a server that answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    compiled = wasmtime_cli.compiled(component, folder)
    command: list[str | Path] = [
        wasmtime_cli.command(),
        "serve",
        "-S",
        "cli",
        "--allow-precompiled",
        "--addr",
        f"127.0.0.1:{port}",
        compiled,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await_port(port, server)
            yield port
        finally:
            server.kill()


def _await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > limit:
                raise RuntimeError("`wasmtime serve` does not come up") from None
        time.sleep(0.01)


class _Asker:
    """A plain client; the first reading is not counted, as `interleaved` has it."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self.connection = connection
        self._path = path
        self._readings: list[list[float]] = []

    def reading(self) -> float:
        """The mean milliseconds of one request out of many."""
        self._readings.append([self._ask() for _ in range(_REQUESTS)])
        return sum(self._readings[-1]) / _REQUESTS

    def means(self) -> Iterator[float]:
        """Milliseconds of a request, for each reading."""
        return (sum(each) / len(each) for each in self._readings[1:])

    def tails(self) -> Iterator[float]:
        """Milliseconds that 99 of 100 requests take at the most, for each reading."""
        return (sorted(each)[math.ceil(0.99 * len(each)) - 1] for each in self._readings[1:])

    def _ask(self) -> float:
        started = time.perf_counter()
        self.connection.request("GET", self._path)
        response = self.connection.getresponse()
        if response.read() != GREETING:
            raise RuntimeError(f"{response.status} instead of a greeting")
        return (time.perf_counter() - started) * 1000
