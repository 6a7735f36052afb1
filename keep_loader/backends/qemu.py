"""Backends of virtual machines: the unit's own process starts QEMU, watches it and carries connections into it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from app_loader.revocation import CRL_FILE, MAX_SIZE
from keep_loader.errors import MachineError
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.launch import Order, channel_kind
from keep_loader.machine.running import RunningMachine
from keep_loader.machine.starting import Publish, start_machine
from keep_protocol.guest_control import (
    GUEST_PROTOCOL_VERSION,
    GuestConfiguration,
    Revocations,
)
from keep_protocol.handover import Configuration
from keep_protocol.machine import MACHINE_FDS, WITH_DISK
from keep_protocol.spec import decode_spec, spec_digest

_CRL_POLL: Final = 1.0
"""Seconds between two looks at the host's revocation list."""

_logger = logging.getLogger(__name__)


def run(
    *,
    configuration: Configuration,
    listener: socket.socket,
    devices: Mapping[str, int],
    state: Path,
    host: Path,
    broker: Path,
    invocation: str,
    publish: Publish,
    heartbeat: Callable[[], None],
    heartbeat_interval: float | None,
) -> int:
    """Serve the keep from a machine until SIGTERM or the machine's end; the process's exit status.

    As `app_loader.main.run`; `publish` gets how the machine came to life too. `heartbeat` is called when the keep
    inside gives a sign of life, however often it is due.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if configuration.machine is None:
        raise MachineError("the host said nothing of a machine; restart the keep, if its manager is a newer one")
    raw = configuration.spec.encode()
    order = Order(
        spec=decode_spec(raw),
        spec_sha256=bytes.fromhex(spec_digest(raw)),
        machine=configuration.machine,
        files={name: descriptor for name, descriptor in devices.items() if name in MACHINE_FDS},
        state=state,
    )
    revocations = _RevocationList(host / CRL_FILE)
    guest = GuestConfiguration(
        version=GUEST_PROTOCOL_VERSION,
        configuration=msgspec.structs.replace(configuration, machine=None),
        invocation=invocation,
        channel=channel_kind(configuration.machine, order.spec),
        disk=order.spec.backend in WITH_DISK,
        revocation_lists=revocations.read(),
    )
    asked = broker if order.spec.network.names_anything else None
    return asyncio.run(_serve(order, guest, listener, revocations, publish, heartbeat, asked))


async def _serve(
    order: Order,
    guest: GuestConfiguration,
    listener: socket.socket,
    revocations: _RevocationList,
    publish: Publish,
    heartbeat: Callable[[], None],
    broker: Path | None,
) -> int:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    machine, told = await start_machine(order, guest, publish=publish, heartbeat=heartbeat, broker=broker)
    forwarder = Forwarder(listener, machine.dial)
    tasks: list[asyncio.Task[None]] = []

    def ready() -> None:
        tasks.append(asyncio.create_task(forwarder.run()))
        tasks.append(asyncio.create_task(_pass_on(revocations, machine)))

    serving = asyncio.create_task(machine.serve(None if told else guest, ready))
    stopping = asyncio.create_task(terminated.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await machine.stop()
        await serving
    except MachineError:
        for line in machine.last_words():
            print(line, file=sys.stderr)
        raise
    finally:
        for task in (*tasks, serving, stopping):
            task.cancel()
        await asyncio.gather(*tasks, serving, stopping, return_exceptions=True)
        await forwarder.close()
        await machine.close()
    return 0


async def _pass_on(revocations: _RevocationList, machine: RunningMachine) -> None:
    with contextlib.suppress(OSError):
        while True:
            await asyncio.sleep(_CRL_POLL)
            if revocations.changed():
                await machine.command(Revocations(revocations.read()))


class _RevocationList:
    """The host's revocation list, which it replaces now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, int] | None = None

    def changed(self) -> bool:
        """Whether it is another file than the one that was read last."""
        return self._sign() != self._signature

    def read(self) -> str:
        """PEM; empty when there is none. A list too long for a line is left out, as one that is missing."""
        self._signature = self._sign()
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_SIZE + 1)
        except OSError as error:
            _logger.warning("the revocation list cannot be read: %s", error.strerror)
            return ""
        if len(content) > MAX_SIZE:
            _logger.warning("the revocation list has more than %d bytes: guests go without", MAX_SIZE)
            return ""
        return content.decode("ascii", errors="replace")

    def _sign(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
