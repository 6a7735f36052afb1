"""A guest at the other end of the data port: `keep_protocol.channel` on a socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from keep_loader.machine.multiplexed import MultiplexedChannel
from keep_protocol.channel import Aborted, Ended, Multiplexer, Opened, Received, Role, StreamClosedError


class SerialGuest:
    """Takes every stream; `echoes` says whether bytes go back, and `reads` whether it takes any at all."""

    def __init__(self, connection: socket.socket, *, echoes: bool = True) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.multiplexer = Multiplexer(Role.GUEST)
        self.echoes = echoes
        self.reads = asyncio.Event()
        self.reads.set()
        self.opened: list[int] = []
        self.received: dict[int, bytearray] = {}
        self.aborted: list[int] = []
        self._back: dict[int, bytearray] = {}
        self._ended: set[int] = set()

    async def run(self) -> None:
        """Until the host hangs up."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            await self.flush()
            while True:
                await self.reads.wait()
                content = await loop.sock_recv(self.connection, 65536)
                if not content:
                    return
                for event in self.multiplexer.receive(content):
                    self._take(event)
                self._give_back()
                await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        loop = asyncio.get_running_loop()
        while output := self.multiplexer.output():
            await loop.sock_sendall(self.connection, output)
            self.multiplexer.written(len(output))
            self._give_back()

    def _take(self, event: object) -> None:
        match event:
            case Opened(stream, _):
                self.opened.append(stream)
                self.received[stream] = bytearray()
                self._back[stream] = bytearray()
            case Received(stream, data):
                self.received[stream] += data
                if self.echoes:
                    self._back[stream] += data
                    self.multiplexer.acknowledge(stream, len(data))
            case Ended(stream):
                self._ended.add(stream)
            case Aborted(stream, _):
                self.aborted.append(stream)
                self._back.pop(stream, None)

    def _give_back(self) -> None:
        for stream, data in self._back.items():
            with contextlib.suppress(StreamClosedError):
                del data[: self.multiplexer.send(stream, bytes(data))]
                if not data and stream in self._ended:
                    self._ended.discard(stream)
                    self.multiplexer.end(stream)


async def until(condition: Callable[[], object]) -> None:
    """Let everybody run until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(*, echoes: bool = True) -> AsyncIterator[tuple[MultiplexedChannel, SerialGuest]]:
    """A channel of the host with a guest at its other end, both running."""
    ours, theirs = socket.socketpair()
    channel, guest = MultiplexedChannel(ours), SerialGuest(theirs, echoes=echoes)
    tasks = [asyncio.create_task(channel.run()), asyncio.create_task(guest.run())]
    try:
        yield channel, guest
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channel.close()
        theirs.close()
