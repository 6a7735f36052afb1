"""A preview-1 echo server behind `listen`, by TCP and by TLS, against one in Python's asyncio streams.

The keep's execution part runs in a process of its own, with the loopback in place of the broker: what lies between a
socket and its guest is all there.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_protocol.keep_api import RunRequest
from keep_protocol.workload_configuration import WorkloadConfiguration
from tests.unit.app_loader.execution_harness import Execution, execute, guest
from tests.unit.app_loader.pki import self_signed
from tests.unit.app_loader.socket_harness import PORT, STREAMS, listening, networked

_TARGET = Target(Comparison.SPEED, 0.7)
_BLOCK = 64 * 1024
_BLOCKS = 500


def measure(session: Session) -> list[Row | Omission]:
    """64 KiB are sent, and all are read before the next; milliseconds for each."""
    rows: list[Row | Omission] = []
    for prot in ("tcp", "tls"):
        keep, baseline = partial(_keep, prot=prot), partial(_asyncio, prot=prot)
        with _on_processors_apart(), _served(keep) as ours, _served(baseline) as theirs:
            by_guest, by_asyncio = interleaved(session.rounds, partial(_time, ours, prot), partial(_time, theirs, prot))
        rows.append(
            Row(
                f"echo of 64 KiB blocks by a preview-1 guest behind `listen`, {prot}, 1 connection",
                f"Python asyncio streams, {'ssl' if prot == 'tls' else 'plain'}",
                Sample("ms", by_guest),
                Sample("ms", by_asyncio),
                _TARGET,
            )
        )
    return rows


def _last_processor() -> int:
    return max(range(os.cpu_count() or 1))


@contextmanager
def _on_processors_apart() -> Iterator[None]:
    """The client on the first processor; servers, which are children, go to the last one.

    Where Linux happens to put them decides how long one takes to wake the other: in one run three times as long as in
    another.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _time(port: int, prot: str) -> float:
    block, place = b"x" * _BLOCK, bytearray(_BLOCK)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = plain
        if prot == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain)
        started = time.perf_counter()
        for _ in range(_BLOCKS):
            connection.sendall(block)
            missing = _BLOCK
            while missing:
                missing -= connection.recv_into(place, missing)
        elapsed = time.perf_counter() - started
        connection.close()
    return elapsed / _BLOCKS * 1000


@contextmanager
def _served(work: Callable[[Connection], None]) -> Iterator[int]:
    """The port of a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {_last_processor()})
            work(theirs)
        finally:
            os._exit(0)
    try:
        yield ours.recv()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _keep(ready: Connection, prot: str) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        document = {"files": [*STREAMS, listening(prot)]}
        await execution.configuration.replace(msgspec.convert(document, WorkloadConfiguration))
        run = await execution.runs.start(RunRequest(args=("blocking", "1000000")))
        ready.send(execution.network.bound[PORT])
        await execution.finished(run.id)

    with tempfile.TemporaryDirectory() as state:
        execute(Path(state), scenario, networked())


def _asyncio(ready: Connection, prot: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
        writer.close()

    async def serve() -> None:
        context = None
        if prot == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.TemporaryDirectory() as folder:
                context.load_cert_chain(self_signed().write(Path(folder)))
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())
