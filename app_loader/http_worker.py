"""The server's end of one process that answers HTTP requests: frames both ways, with back-pressure."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING

from app_loader.http_log import HttpLog
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Work
from app_loader.trusted_roots import TrustedRoots
from app_loader.wasi_http.frames import HEADER, MAX_FRAME, Frame, frame
from app_loader.worker_process import WorkerProcess

if TYPE_CHECKING:
    from app_loader.network import Network

_MAX_UNREAD = 256 * 1024
"""Bytes of frames that wait for the client before the guest is held back."""
_MAX_UNSENT = 64 * 1024
"""Bytes of a request that wait for the guest before the client is held back."""


class HttpWorker(WorkerProcess, asyncio.Protocol):
    """A process that has one workload mapped and answers one request at a time."""

    def __init__(
        self,
        runner: Runner,
        module: str,
        oom_kills: OomKills,
        network: Network | None,
        roots: TrustedRoots,
        log: HttpLog,
    ) -> None:
        """`network` is where the guest's own requests go, if it makes any; `log` gets what it prints."""
        super().__init__(runner, module, oom_kills, Work.HTTP)
        self._log = log
        self._network = network
        self._roots = roots
        self._serving_network: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._frames: deque[tuple[Frame, bytes]] = deque()
        self._unread = 0
        self._paused = False
        self._arrival: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def next_frame(self) -> tuple[Frame, bytes] | None:
        """What it says next; None when it has hung up."""
        while not self._frames:
            if self._transport is None:
                return None
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        kind, content = self._frames.popleft()
        if kind is Frame.BODY and self._frames and self._frames[0][0] is Frame.BODY:
            content = self._joined(content)
        self._unread -= len(content)
        return kind, content

    def _joined(self, first: bytes) -> bytes:
        """Guests write in small blocks, each of which would cost the client's end as much as a large one."""
        parts = [first]
        while self._frames and self._frames[0][0] is Frame.BODY:
            parts.append(self._frames.popleft()[1])
        return b"".join(parts)

    def send(self, kind: Frame, content: bytes = b"") -> None:
        """Say something; nothing happens if it has hung up."""
        if self._transport is not None:
            self._transport.write(frame(kind, content))

    async def drain(self) -> None:
        """Wait until it has taken most of what was said."""
        if self._writable is not None:
            await self._writable

    def _further_descriptors(self) -> tuple[int, ...]:
        if self._network is None:
            return (self._log.writer(),)
        from app_loader.network_channel import network_channel, serve_network

        ours, theirs = network_channel()
        self._serving_network = asyncio.get_running_loop().create_task(serve_network(ours, self._network))
        # It ends with the process, whose end of the channel is the only one.
        self._serving_network.add_done_callback(lambda _: ours.close())
        return self._log.writer(), theirs.detach(), self._roots.descriptor()

    async def _talk_over(self, connected: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connected)

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        _wake(self._arrival)
        _wake(self._writable)
        self._writable = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_MAX_UNSENT)

    def data_received(self, data: bytes) -> None:
        self._received += data
        start = 0
        while len(self._received) - start >= HEADER.size:
            kind, size = HEADER.unpack_from(self._received, start)
            if size > MAX_FRAME or not Frame.BODY <= kind <= Frame.DONE:
                self._hang_up()  # the guest has got out of its sandbox, or memory is broken
                return
            end = start + HEADER.size + size
            if len(self._received) < end:
                break
            self._frames.append((Frame(kind), bytes(self._received[start + HEADER.size : end])))
            self._unread += size
            start = end
        del self._received[:start]
        if self._unread >= _MAX_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._frames:
            _wake(self._arrival)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._writable)
        self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._hang_up()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
