"""The manager's listening socket: bounds what strangers can hold open, and tells handshakes whose they are."""

from __future__ import annotations

import contextlib
import logging
import socket
from contextvars import ContextVar
from typing import Any, ClassVar

from keep_manager.config import Address
from keep_manager.errors import ConfigurationError
from keep_protocol.bounded_log import BoundedLog

_logger = logging.getLogger(__name__)

BACKLOG = 512


class Accepted(socket.socket):
    """One accepted connection, from its handshake to its end."""

    current: ClassVar[ContextVar[Accepted]] = ContextVar("accepted")
    """The connection that the running callback belongs to: asyncio copies the context when it accepts."""

    peer = "?"
    _listener: BoundedListener | None = None

    def close(self) -> None:
        if self._listener is not None:
            self._listener.forget(self)
            self._listener = None
        super().close()

    def established(self) -> None:
        """The handshake is over: somebody known is at the other end."""
        if self._listener is not None:
            self._listener.shaking_hands.pop(self, None)

    def abandon(self) -> None:
        """Make the handshake fail, whichever state it is in."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def end_our_direction(self) -> None:
        """After an alert, so that the client leaves instead of waiting for the handshake's deadline."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)

    def refused(self, reason: str) -> None:
        """Log a handshake that failed, as often as the listener admits."""
        if self._listener is not None:
            self._listener.refusals.warning("TLS handshake with %s refused: %s", self.peer, reason)


class BoundedListener(socket.socket):
    """Bounds connections and handshakes together: each costs asyncio 290 KiB.

    For a new one the oldest handshake gives way, so that strangers who say nothing keep nobody out; among clients whose
    handshake is over, the one who comes too late is closed.
    """

    max_connections: ClassVar[int] = 256

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._open: set[Accepted] = set()
        self.shaking_hands: dict[Accepted, None] = {}
        """The oldest first."""
        self.refusals = BoundedLog(_logger)

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            descriptor, address = self._accept()  # type: ignore[attr-defined]
            connection = Accepted(self.family, self.type, self.proto, fileno=descriptor)
            connection.peer = f"{address[0]}:{address[1]}"
            if len(self._open) >= self.max_connections and not self._make_room():
                connection.close()
                self.refusals.warning("connection of %s closed: %d are open", connection.peer, self.max_connections)
                continue
            self._open.add(connection)
            self.shaking_hands[connection] = None
            connection._listener = self
            Accepted.current.set(connection)
            return connection, address

    def forget(self, connection: Accepted) -> None:
        """It has ended, and counts no more."""
        self._open.discard(connection)
        self.shaking_hands.pop(connection, None)

    def _make_room(self) -> bool:
        oldest = next(iter(self.shaking_hands), None)
        if oldest is None:
            return False
        self.forget(oldest)
        oldest.abandon()
        return True


def listen_on(address: Address) -> BoundedListener:
    """A listening socket for the manager. Raises `ConfigurationError`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # With the protocol: asyncio sets TCP_NODELAY only on sockets that name it, and without that a response in two
    # writes waits 40 ms for the peer's delayed acknowledgement.
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    listener = BoundedListener(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"the manager cannot listen on {address}: {error.strerror}") from None
    return listener
