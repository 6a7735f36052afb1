"""The network of a machine: what its guest asks for, asked of the keep's broker, and the bytes of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from app_loader.broker_exchange import Answered, ask
from app_loader.errors import NetworkUnavailableError
from keep_loader.machine.forwarder import carry
from keep_loader.machine.streams import SocketStream, Stream
from keep_protocol.broker import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.channel import NOBODY_LISTENS
from keep_protocol.framed_message import FramedMessage, framed
from keep_protocol.strict_json import decode_strictly

MAX_INCOMING: Final = 64
"""Connections to listening ports at a time; further ones wait to be accepted."""

_PAUSE: Final = 0.2
"""Seconds after an accept that failed for want of descriptors or memory."""

_logger = logging.getLogger(__name__)


class MachineNetwork:
    """Asks the broker for one guest, unbelieved: it is the broker that checks against the spec."""

    def __init__(self, broker: Path, dial_port: Callable[[int], Awaitable[Stream]]) -> None:
        """`dial_port` connects to a port inside the machine. Must be made in a running event loop."""
        self._broker = broker
        self._dial_port = dial_port
        self._ports: dict[int, _Port] = {}
        self._binding = asyncio.Lock()

    async def serve(self, guest: Stream) -> None:
        """One request, and for a connection all that follows on it. Raises `OSError` when either end breaks."""
        message = FramedMessage(MAX_MESSAGE)
        while (request := message.feed(await guest.read())) is None:
            pass
        answered = await self._answer(request)
        with answered.socket or contextlib.nullcontext():
            await guest.write(framed(msgspec.json.encode(answered.answer)))
            if answered.socket is None:
                await guest.finish()
            else:
                await carry(SocketStream(answered.socket), guest)

    async def close(self) -> None:
        """Listen on no port any more, and break off what came by them."""
        for port in tuple(self._ports):
            await self._release(port)

    async def _answer(self, request: bytes) -> Answered:
        try:
            port = _bound_port(request)
            return await (ask(self._broker, request) if port is None else self._bind(port, request))
        except NetworkUnavailableError as error:
            return Answered(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.UNREACHABLE, str(error)), None)

    async def _bind(self, number: int, request: bytes) -> Answered:
        """Listen for the guest, and go on where it has listened before; the guest itself gets no socket."""
        async with self._binding:
            if number in self._ports:
                return Answered(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK), None)
            answered = await ask(self._broker, request)
            if answered.socket is not None:
                port = self._ports[number] = _Port(answered.socket, lambda: self._dial_port(number))
                port.accepting.add_done_callback(lambda _: self._ports.pop(number, None))
            return Answered(answered.answer, None)

    async def _release(self, number: int) -> None:
        if (port := self._ports.pop(number, None)) is not None:
            await port.close()


class _Port:
    """One listening port: every connection to it becomes a stream into the machine."""

    def __init__(self, listener: socket.socket, dial: Callable[[], Awaitable[Stream]]) -> None:
        self._listener = listener
        self._dial = dial
        self._connections: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(MAX_INCOMING)
        self.accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        tasks = [self.accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                self._free.release()
                if self._listener.fileno() < 0:
                    return
                _logger.warning("no connection can be accepted for the guest: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            task = asyncio.create_task(self._carry(connection))
            self._connections.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._free.release()

    async def _carry(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                guest = await self._dial()
            except OSError:
                return
            try:
                await carry(SocketStream(connection), guest)
            except OSError as error:
                if str(error) == NOBODY_LISTENS:
                    # The workload that listened is gone: its port is free for whoever wants it.
                    self.accepting.cancel()
                    self._listener.close()
            finally:
                guest.close()


def _bound_port(request: bytes) -> int | None:
    """The port that a guest wants to listen on; None for all other requests, malformed ones too: the broker tells."""
    try:
        wanted = decode_strictly(request, BrokerRequest)
    except msgspec.MsgspecError:
        return None
    return wanted.port if wanted.operation is BrokerOperation.BIND else None
