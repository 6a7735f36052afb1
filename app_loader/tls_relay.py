"""TLS for guests, in a thread of the server: guests' processes never see a key, and speak plainly over a socketpair.

One thread serves all connections of a keep.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from app_loader.relayed_connection import BLOCK, HANDSHAKE_SECONDS, Done, Relayed
from keep_protocol.bounded_log import BoundedLog

MAX_CONNECTIONS: Final = 256
"""At a time, of all runs; further ones are closed."""

_logger = logging.getLogger(__name__)


class TlsRelay:
    """Started with the first connection; `close` ends it."""

    def __init__(self) -> None:
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._by_descriptor: dict[int, Relayed] = {}
        self._relayed: set[Relayed] = set()
        self._timed: set[Relayed] = set()
        """Those that have a deadline."""
        self._scratch = memoryview(bytearray(BLOCK))
        self._token = os.eventfd(0, os.EFD_CLOEXEC)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._warnings = BoundedLog(_logger)

    def relay(self, connection: socket.socket, tls: ssl.SSLContext, server_hostname: str | None, done: Done) -> None:
        """Take over a connected TCP socket and do TLS on it: as its client with `server_hostname`, else as its server.

        May be called from any thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tls-relay", daemon=True)
            self._thread.start()
        self._command(lambda: self._begin(connection, tls, server_hostname, done))

    def close(self) -> None:
        """Cut all connections and end the thread."""
        if self._thread is not None:
            self._command(self._stop)
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)
        os.close(self._token)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        os.eventfd_write(self._wake, 1)

    def _stop(self) -> None:
        self._stopping = True

    # In the thread

    def _run(self) -> None:
        while not self._stopping:
            for descriptor, events in self._epoll.poll(self._patience()):
                if descriptor == self._wake:
                    self._obey()
                elif (relayed := self._by_descriptor.get(descriptor)) is not None:
                    self._advance(relayed, descriptor, events)
            self._end_overdue()
        for relayed in tuple(self._relayed):
            self._end(relayed)

    def _obey(self) -> None:
        os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()

    def _begin(self, connection: socket.socket, tls: ssl.SSLContext, server_hostname: str | None, done: Done) -> None:
        if len(self._relayed) >= MAX_CONNECTIONS:
            connection.close()
            done(None, f"{MAX_CONNECTIONS} connections are relayed already")
            return
        relayed = Relayed(connection, tls, server_hostname, done, scratch=self._scratch, token=self._token)
        self._relayed.add(relayed)
        self._by_descriptor[connection.fileno()] = relayed
        self._epoll.register(connection.fileno(), 0)
        self._advance(relayed, -1, 0)

    def _advance(self, relayed: Relayed, descriptor: int, events: int) -> None:
        try:
            relayed.advance(descriptor, events)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
            self._warnings.warning("TLS handshake of a workload failed: %s", reason)
            self._end(relayed, str(reason))
            return
        if relayed.over:
            self._end(relayed)
            return
        self._watch(relayed)

    def _watch(self, relayed: Relayed) -> None:
        (self._timed.discard if relayed.deadline is None else self._timed.add)(relayed)
        if relayed.plain is not None and relayed.plain.fileno() not in self._by_descriptor:
            self._by_descriptor[relayed.plain.fileno()] = relayed
            self._epoll.register(relayed.plain.fileno(), 0)
        for descriptor in relayed.take_dead():
            # A dead socket reports its death for ever, whether anybody asked or not.
            self._by_descriptor.pop(descriptor, None)
            self._epoll.unregister(descriptor)
        for descriptor, wanted in relayed.interest():
            if relayed.watched.get(descriptor, 0) != wanted:
                relayed.watched[descriptor] = wanted
                self._epoll.modify(descriptor, wanted)

    def _end(self, relayed: Relayed, reason: str = "the keep is stopping") -> None:
        self._relayed.discard(relayed)
        self._timed.discard(relayed)
        for end in (relayed.connection, relayed.plain):
            if end is not None:
                self._by_descriptor.pop(end.fileno(), None)
                end.close()
        relayed.give(None, reason)

    def _patience(self) -> float | None:
        deadlines = [relayed.deadline for relayed in self._timed if relayed.deadline is not None]
        return None if not deadlines else max(0.0, min(deadlines) - time.monotonic())

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for relayed in tuple(self._timed):
            if relayed.deadline is not None and relayed.deadline <= now:
                if relayed.done is not None:
                    self._warnings.warning("TLS handshake of a workload took longer than %g s", HANDSHAKE_SECONDS)
                self._end(relayed, f"the handshake took longer than {HANDSHAKE_SECONDS:g} s")
