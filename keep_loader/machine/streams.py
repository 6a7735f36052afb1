"""A stream of bytes in both directions, whatever carries it: what connections and guests have in common."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final, Protocol

CHUNK: Final = 64 * 1024
"""Most bytes that are on their way in one direction of one connection, apart from the kernel's own buffers."""


class Stream(Protocol):
    """One connection. Every method but `close` raises `OSError` when it is broken."""

    async def read(self) -> bytes:
        """The next bytes, at most `CHUNK`; none when the peer has finished."""

    async def write(self, data: bytes) -> None:
        """Give bytes on; waits while the peer takes none."""

    async def finish(self) -> None:
        """Tell the peer that nothing more will come; it may go on sending."""

    def close(self) -> None:
        """Break off, or let go of what is over."""


class SocketStream:
    """A connected stream socket, which is made non-blocking."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """As in `Stream`."""
        return await self._loop.sock_recv(self._connection, CHUNK)

    async def write(self, data: bytes) -> None:
        """As in `Stream`."""
        await self._loop.sock_sendall(self._connection, data)

    async def finish(self) -> None:
        """As in `Stream`."""
        self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """As in `Stream`."""
        with contextlib.suppress(OSError):
            self._connection.close()
