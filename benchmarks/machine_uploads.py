"""Uploads into virtual machines beside raw bytes through their channel, and what of the difference is whose."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare_machine import raw_channel
from benchmarks.measurement import Comparison, Row, Sample, Target, interleaved
from keep_client import Home, KeepClient, ManagerClient, connect_keep
from keep_client.pins import KeepPin
from keep_client.tls import keep_context
from keep_protocol.manager_api import Keep
from keep_protocol.spec import KeepSpec
from keep_protocol.states import AtRest, FileArea

_SIZE = 8 * 1024 * 1024
_TARGET = Target(Comparison.SPEED, 0.7)
"""Of the whole; the parts are held to it too, which tells what stands in its way."""
_PATIENCE = 60.0


def uploads_to_machines(
    home: Home, manager: ManagerClient, specs: Mapping[AtRest, KeepSpec], image: Path, memory: int, rounds: int
) -> list[Row]:
    """The same number of bytes through the same kind of channel, in turns, each time with one thing less to do."""
    with ExitStack() as stack:
        keeps = {at_rest: _created(stack, manager, spec) for at_rest, spec in specs.items()}
        clients = {at_rest: stack.enter_context(connect_keep(manager, keep.id)) for at_rest, keep in keeps.items()}
        raw = stack.enter_context(raw_channel(image, memory, _SIZE))
        readings = interleaved(
            rounds,
            _upload(clients[AtRest.SEALED]),
            _upload(clients[AtRest.PLAIN]),
            lambda: _tls_alone(home, keeps[AtRest.PLAIN]),
            raw,
        )
    sealed, plain, tls, bare = (Sample("s", values) for values in readings)
    size = f"{_SIZE >> 20} MiB"
    baseline = "as many raw bytes through the same kind of channel, dropped by the guest"
    return [
        Row(
            f"{size} upload to a `qemu` keep (SDK): TLS, digest, sealed, synced to disk",
            baseline,
            sealed,
            bare,
            _TARGET,
        ),
        Row(
            f"{size} upload to a `qemu` keep with `at_rest` `plain`: the same but for sealing",
            baseline,
            plain,
            bare,
            _TARGET,
        ),
        Row(f"{size} to a `qemu` keep by TLS alone, thrown away decrypted", baseline, tls, bare, _TARGET),
    ]


def _created(stack: ExitStack, manager: ManagerClient, spec: KeepSpec) -> Keep:
    keep = manager.create_keep(spec)
    stack.callback(manager.remove_keep, keep.id)
    return keep


def _upload(client: KeepClient) -> Callable[[], float]:
    def upload() -> float:
        content = os.urandom(_SIZE)
        started = time.perf_counter()
        client.put_file(FileArea.INPUT, "upload", content)
        return time.perf_counter() - started

    return upload


def _tls_alone(home: Home, keep: Keep) -> float:
    """Seconds for the body of a request that is refused by its head: a keep reads what still comes, and drops it."""
    if keep.endpoint is None or keep.certificate is None:
        raise RuntimeError("a keep that is ready has an endpoint and a certificate")
    context = keep_context(KeepPin.from_certificate(keep.certificate), home.operator)
    host, _, port = keep.endpoint.rpartition(":")
    content = os.urandom(_SIZE)
    with socket.create_connection((host, int(port)), _PATIENCE) as connection, context.wrap_socket(connection) as tls:
        started = time.perf_counter()
        tls.sendall(f"PUT /nowhere HTTP/1.1\r\nHost: keep\r\nContent-Length: {_SIZE}\r\n\r\n".encode())
        tls.sendall(content)
        while not (answer := tls.recv(65536)).endswith(b"}"):
            if not answer:
                raise RuntimeError("the keep hung up before the end of its refusal")
        # The peer's own end of TLS comes when it has read ours, which is behind all the rest.
        tls.unwrap()
        return time.perf_counter() - started
