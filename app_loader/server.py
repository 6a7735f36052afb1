"""Accepts connections on the keep's listener: handshakes with a deadline, at most so many clients at a time."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Final

from app_loader.connection import Application, Connection
from app_loader.deadlines import Deadlines
from app_loader.principals import Visitors
from app_loader.tls import Attempt, Trust
from keep_protocol.bounded_log import BoundedLog

MAX_CONNECTIONS: Final = 64
"""Clients and handshakes at a time; asyncio's TLS holds about 300 KiB for each."""

_HANDSHAKE_SECONDS: Final = 5.0
_SHUTDOWN_SECONDS: Final = 5.0
_ACCEPT_PAUSE: Final = 0.5
_MAX_ACCEPTS: Final = 16

_logger = logging.getLogger(__name__)


class Server:
    """Serves an application to whom its port is for."""

    def __init__(
        self,
        application: Application,
        trust: Trust,
        visitors: Visitors,
        *,
        deadlines: Deadlines | None = None,
        handshake_seconds: float = _HANDSHAKE_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._application = application
        self._trust = trust
        self._visitors = visitors
        self._deadlines = deadlines or Deadlines()
        self._handshake_seconds = handshake_seconds
        self._max_connections = max_connections
        self._listener: socket.socket | None = None
        self._handshakes: dict[Attempt, asyncio.Task[None]] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        """Handshakes that were ended to make room, until they have noticed."""
        self._connections: set[Connection] = set()
        self._refusals = BoundedLog(_logger)

    def start(self, listener: socket.socket) -> None:
        """Accept connections from now on, in the running event loop."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def stop_accepting(self) -> None:
        """Leave further clients in the listener's queue, and close those that are idle."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener = None
        for attempt in self._handshakes:
            attempt.abandon()
        for connection in tuple(self._connections):
            connection.finish()

    async def drain(self, seconds: float) -> None:
        """Give responses that are under way so long to end."""
        if serving := [connection.serving for connection in self._connections]:
            await asyncio.wait(serving, timeout=seconds)

    async def close(self) -> None:
        """End every connection now."""
        self.stop_accepting()
        # A handshake may still become a connection.
        while self._connections or self._handshakes or self._abandoned:
            for connection in self._connections:
                connection.abort()
            await asyncio.wait(
                [*self._handshakes.values(), *self._abandoned, *(connection.lost for connection in self._connections)],
                return_when=asyncio.FIRST_COMPLETED,
            )

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_MAX_ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                self._pause_accepting()
                return
            # In a virtual machine clients come through a channel of the host's, which says nothing of them.
            peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"
            if len(self._handshakes) + len(self._connections) >= self._max_connections and not self._make_room():
                connection.close()
                self._refusals.warning("closed %s: %d connections are open", peer, self._max_connections)
                continue
            attempt = Attempt(connection)
            self._handshakes[attempt] = asyncio.get_running_loop().create_task(
                self._shake_hands(attempt, connection, peer)
            )

    def _make_room(self) -> bool:
        """End the oldest handshake that is under way: strangers who say nothing must not keep principals out."""
        oldest = next(iter(self._handshakes), None)
        if oldest is None:
            return False
        task = self._handshakes.pop(oldest)
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        oldest.abandon()
        return True

    def _pause_accepting(self) -> None:
        """Out of descriptors or memory: the listener stays readable and would keep the loop spinning."""
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        loop.call_later(_ACCEPT_PAUSE, self._resume_accepting)
        self._refusals.warning("no connection can be accepted: out of descriptors or memory")

    def _resume_accepting(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def _shake_hands(self, attempt: Attempt, connection: socket.socket, peer: str) -> None:
        # Callbacks of the transport run in this task's context.
        Attempt.current.set(attempt)
        _detect_dead_peers(connection)

        def opened(client: Connection) -> None:
            # It counts once: as a handshake until now, as a connection from now on.
            self._handshakes.pop(attempt, None)
            self._connections.add(client)

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._application, self._visitors, self._deadlines, opened, self._closed),
                connection,
                ssl=self._trust.listening,
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError as error:
            reason = attempt.refusal or str(error) or "the client went away"
            self._refusals.warning("TLS handshake with %s refused: %s", peer, reason)
        finally:
            self._handshakes.pop(attempt, None)

    def _closed(self, client: Connection) -> None:
        self._connections.discard(client)


def _detect_dead_peers(connection: socket.socket) -> None:
    """A client that vanishes while it follows a stream is noticed after two minutes."""
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return  # whoever forwards it to us notices
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
