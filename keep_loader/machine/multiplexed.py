"""Connections through the one serial port of a machine; the framing is `keep_protocol.channel`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

from keep_loader.errors import MachineError
from keep_loader.machine.streams import CHUNK, Stream
from keep_protocol.channel import (
    KEEP_SERVICE,
    Aborted,
    ChannelError,
    Credited,
    Ended,
    Event,
    Multiplexer,
    Opened,
    Received,
    Role,
    StreamClosedError,
)

_READ = 64 * 1024
_CLOSED = "the channel to the guest is closed"

_logger = logging.getLogger(__name__)


class MultiplexedChannel:
    """The host's end of the data port. Memory is bounded by the windows of the streams that are open."""

    def __init__(
        self, connection: socket.socket, services: Mapping[str, Callable[[Stream], Awaitable[None]]] | None = None
    ) -> None:
        """`services` are what the guest may open streams to; each serves one stream, which is closed afterwards."""
        connection.setblocking(False)
        self._connection = connection
        self._multiplexer = Multiplexer(Role.HOST)
        self._streams: dict[int, _MultiplexedStream] = {}
        self._services = services or {}
        self._serving: set[asyncio.Task[None]] = set()
        self._closed = False
        self._output = asyncio.Event()
        self._output.set()

    async def run(self) -> None:
        """Carry bytes until the guest hangs up. Raises `MachineError` when it breaks the framing."""
        loop = asyncio.get_running_loop()
        writing = asyncio.create_task(self._write(loop))
        try:
            with contextlib.suppress(OSError):
                while received := await loop.sock_recv(self._connection, _READ):
                    for event in self._multiplexer.receive(received):
                        self._dispatch(event)
                    self._output.set()
        except ChannelError as error:
            raise MachineError(f"channel-broken: the guest sent what is no channel: {error}") from None
        finally:
            for task in (writing, *self._serving):
                task.cancel()
            await asyncio.gather(writing, *self._serving, return_exceptions=True)
            self._closed = True
            for stream in self._streams.values():
                stream.broken = _CLOSED
                stream.changed.set()

    async def dial(self, service: str = KEEP_SERVICE) -> _MultiplexedStream:
        """A new connection to the keep inside, or to another service of the guest's. Raises `OSError`."""
        if self._closed:
            raise ConnectionRefusedError(_CLOSED)
        try:
            number = self._multiplexer.open(service)
        except ChannelError as error:
            raise ConnectionRefusedError(str(error)) from None
        self._output.set()
        stream = self._streams[number] = _MultiplexedStream(self, self._multiplexer, number)
        return stream

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def flush(self) -> None:
        """There is something to write, as far as the guest takes it."""
        self._output.set()

    def forget(self, number: int) -> None:
        """Nobody is interested in a stream any more."""
        self._streams.pop(number, None)

    async def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._output.wait()
                self._output.clear()
                while output := self._multiplexer.output(CHUNK):
                    await loop.sock_sendall(self._connection, output)
                    self._multiplexer.written(len(output))
                # Room for those who found none.
                for stream in self._streams.values():
                    stream.changed.set()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._serve(event)
            return
        stream = self._streams.get(event.stream)
        if stream is None:
            # Ours was given up just before; what still came of it counts as read.
            if isinstance(event, Received):
                self._multiplexer.acknowledge(event.stream, len(event.data))
            return
        match event:
            case Received(data=data):
                stream.received += data
            case Ended():
                stream.ended = True
            case Aborted(reason=reason):
                stream.broken = reason or "the guest broke the connection off"
            case Credited():
                pass
        stream.changed.set()

    def _serve(self, opened: Opened) -> None:
        if (serve := self._services.get(opened.service)) is None:
            _logger.warning("the guest asks for %r, which this host does not offer", opened.service[:64])
            self._multiplexer.abort(opened.stream, "no such service")
            return
        stream = self._streams[opened.stream] = _MultiplexedStream(self, self._multiplexer, opened.stream)

        async def work() -> None:
            try:
                await serve(stream)
            except (OSError, StreamClosedError):
                pass  # either end broke it off
            finally:
                stream.close()

        task = asyncio.create_task(work())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)


class _MultiplexedStream:
    """One connection; see `Stream`. Read by one task and written by one other."""

    def __init__(self, channel: MultiplexedChannel, multiplexer: Multiplexer, number: int) -> None:
        self._channel = channel
        self._multiplexer = multiplexer
        self._number = number
        self.received = bytearray()
        self.ended = False
        self.broken: str | None = None
        self.changed = _Broadcast()

    async def read(self) -> bytes:
        """As in `Stream`."""
        while not self.received:
            if self.broken is not None:
                raise ConnectionResetError(self.broken)
            if self.ended:
                return b""
            await self.changed.wait()
        with memoryview(self.received) as received:
            data = bytes(received[:CHUNK])
        del self.received[:CHUNK]
        try:
            self._multiplexer.acknowledge(self._number, len(data))
        except ChannelError as error:
            raise ConnectionResetError(str(error)) from None
        self._channel.flush()
        return data

    async def write(self, data: bytes) -> None:
        """As in `Stream`."""
        left = memoryview(data)
        while left:
            if self.broken is not None:
                raise ConnectionResetError(self.broken)
            try:
                sent = self._multiplexer.send(self._number, left)
            except StreamClosedError as error:
                raise BrokenPipeError(str(error)) from None
            left = left[sent:]
            if sent:
                self._channel.flush()
            if left:
                await self.changed.wait()

    async def finish(self) -> None:
        """As in `Stream`."""
        try:
            self._multiplexer.end(self._number)
        except StreamClosedError as error:
            raise BrokenPipeError(str(error)) from None
        self._channel.flush()

    def close(self) -> None:
        """As in `Stream`."""
        self._channel.forget(self._number)
        with contextlib.suppress(ChannelError):
            self._multiplexer.abort(self._number)
        self._channel.flush()


class _Broadcast:
    """Wakes everybody who waits now: reader and writer of a stream wait for different things."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
