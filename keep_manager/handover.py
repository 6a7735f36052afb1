"""Hands a starting keep its listening socket and its configuration, after checking whose process asks."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from keep_manager.errors import ManagerError
from keep_manager.faults import fault_point
from keep_protocol.handover import MAX_MESSAGE, PROTOCOL_VERSION, Configuration, Handover, Hello
from keep_protocol.strict_json import decode_strictly

_logger = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")
MAX_CONNECTIONS = 64
DEADLINE = 5.0
"""Seconds for one hand-over."""

ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Offer:
    """What one keep is to get, once."""

    listener: socket.socket
    configuration: Configuration
    devices: Mapping[str, int] = field(default_factory=dict)
    """Further descriptors by name."""

    def close(self) -> None:
        """Our copies of the descriptors; the keep has its own."""
        self.listener.close()
        for descriptor in self.devices.values():
            os.close(descriptor)


class HandoverRefusedError(ManagerError):
    """A process that asked for a keep's socket is not that keep, or the keep is not starting."""


class HandoverServer:
    """Listens on the deployment's `handover.sock` (SOCK_SEQPACKET)."""

    def __init__(
        self,
        path: Path,
        instance_of: Callable[[int], Awaitable[str | None]],
        take_offer: Callable[[Hello], Awaitable[Offer]],
    ) -> None:
        """`instance_of` maps a pid to the instance whose main process it is.

        `take_offer` gives away what a starting keep is to get, or raises `HandoverRefusedError`.
        """
        self._path = path
        self._instance_of = instance_of
        self._take_offer = take_offer
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; replaces the socket of an earlier manager."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._path.unlink(missing_ok=True)
        listener.bind(os.fspath(self._path))
        # Keeps run under users of their own; who may have what is decided by pid, not by mode.
        self._path.chmod(0o666)
        listener.listen(MAX_CONNECTIONS)
        self._socket = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Stop listening. A keep that is starting waits for the next manager as long as systemd lets it."""
        tasks = [task for task in (self._accepting, *self._serving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            if len(self._serving) >= MAX_CONNECTIONS:
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                async with asyncio.timeout(DEADLINE):
                    await self._hand_over(connection)
            except HandoverRefusedError as error:
                _logger.warning("hand-over refused: %s", error)
                answer = Handover(PROTOCOL_VERSION, "refused", str(error)[:512])
                with contextlib.suppress(OSError):
                    connection.send(msgspec.json.encode(answer))
            except (OSError, ManagerError, TimeoutError) as error:
                _logger.warning("hand-over failed: %s", str(error) or type(error).__name__)

    async def _hand_over(self, connection: socket.socket) -> None:
        pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        message = await asyncio.get_running_loop().sock_recv(connection, MAX_MESSAGE + 1)
        hello = _parse(message)
        instance = await self._instance_of(pid)
        if instance is None or instance != hello.instance:
            raise HandoverRefusedError(f"process {pid} says it is {hello.instance[:64]!r} and is {instance!r}")
        offer = await self._take_offer(hello)
        with contextlib.closing(offer):
            configuration = sealed_memory(msgspec.json.encode(offer.configuration))
            try:
                answer = msgspec.json.encode(Handover(PROTOCOL_VERSION, "ok", devices=tuple(offer.devices)))
                descriptors = [offer.listener.fileno(), configuration, *offer.devices.values()]
                socket.send_fds(connection, [answer], descriptors)
            finally:
                os.close(configuration)
        fault_point("launch:handed-over")
        _logger.info("handed %s over to process %d", hello.instance, pid)


def sealed_memory(content: bytes) -> int:
    """A memfd with `content` that nobody can change any more; see memfd_create(2)."""
    descriptor = os.memfd_create("configuration", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _parse(message: bytes) -> Hello:
    if not 0 < len(message) <= MAX_MESSAGE:
        raise HandoverRefusedError(f"the first message has {len(message)} bytes, not 1 to {MAX_MESSAGE}")
    try:
        hello = decode_strictly(message, Hello)
    except msgspec.DecodeError as error:
        raise HandoverRefusedError(f"the first message is no Hello: {error}") from None
    if hello.version != PROTOCOL_VERSION:
        raise HandoverRefusedError(f"the keep speaks version {hello.version}, this manager {PROTOCOL_VERSION}")
    return hello
