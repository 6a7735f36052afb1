"""JSON objects over a socket, one a line: what QEMU's monitor and the guest's control port have in common."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from keep_protocol.guest_control import LineReader

_READ = 64 * 1024


class LineSocket:
    """A connected, non-blocking socket that carries lines."""

    def __init__(self, connection: socket.socket, limit: int) -> None:
        """`limit` is the most bytes of one line of the peer."""
        self._connection = connection
        self._reader = LineReader(limit)
        self._sending = asyncio.Lock()
        connection.setblocking(False)

    async def send(self, line: bytes) -> None:
        """Send one line, its line feed included; waits while the peer takes none. Raises `OSError`."""
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._connection, line)

    async def lines(self) -> AsyncIterator[bytes]:
        """The peer's lines without their ends, until it hangs up. Raises `GuestControlError` for one too long."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                received = await loop.sock_recv(self._connection, _READ)
            except ConnectionError:
                return
            if not received:
                return
            for line in self._reader.feed(received):
                yield line

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
