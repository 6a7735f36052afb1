"""A network of this machine's loopback alone, in place of a keep's broker: tests have no unit around them."""

from __future__ import annotations

import asyncio
import socket


class Loopback:
    """Binds any port that is free for whichever is asked, and connects to names as `connections` says."""

    def __init__(self) -> None:
        self.bound: dict[int, int] = {}
        """Real ports, by those asked for."""
        self.addresses: dict[int, str] = {}
        """Addresses that were asked for, by port; empty for none."""
        self.peers: dict[tuple[str, int], int] = {}
        """Real ports, by host and port asked for."""

    async def bind(self, port: int, address: str = "") -> socket.socket:
        self.addresses[port] = address
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.bound[port] = listener.getsockname()[1]
        return listener

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.peers[host, port]))
        except BaseException:
            connection.close()
            raise
        return connection

    async def client(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client of what listens on a port."""
        return await asyncio.open_connection("127.0.0.1", self.bound[port])
