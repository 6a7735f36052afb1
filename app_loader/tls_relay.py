"""TLS for guests, in a thread of the server: guests' processes never see a key, and speak plainly over a socketpair.

One thread serves all connections of a keep. OpenSSL works on memory, never on the socket itself: so everything that has
come is decrypted before the thread sleeps, and nothing decrypted waits where poll(2) does not see it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from keep_protocol.bounded_log import BoundedLog

MAX_CONNECTIONS: Final = 256
"""At a time, of all runs; further ones are closed."""
HANDSHAKE_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 5.0
"""For the peer to take what the guest has written before it closed."""

_BLOCK: Final = 128 * 1024
_RECORD: Final = 16 * 1024
"""Plain bytes of the largest TLS record."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR

_logger = logging.getLogger(__name__)

Done = Callable[["socket.socket | None", "str | None"], None]
"""Gets the guest's end when the handshake is over, or None and the reason when it failed. Called in the thread."""


class TlsRelay:
    """Started with the first connection; `close` ends it."""

    def __init__(self) -> None:
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, _IN)
        self._by_descriptor: dict[int, _Relayed] = {}
        self._relayed: set[_Relayed] = set()
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
        relayed = _Relayed(connection, tls, server_hostname, done)
        self._relayed.add(relayed)
        self._by_descriptor[connection.fileno()] = relayed
        self._epoll.register(connection.fileno(), 0)
        self._advance(relayed, -1, 0)

    def _advance(self, relayed: _Relayed, descriptor: int, events: int) -> None:
        try:
            relayed.advance(descriptor, events)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
            if relayed.done is not None:
                self._warnings.warning("TLS handshake of a workload failed: %s", reason)
            self._end(relayed, str(reason))
            return
        if relayed.over:
            self._end(relayed)
            return
        self._watch(relayed)

    def _watch(self, relayed: _Relayed) -> None:
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

    def _end(self, relayed: _Relayed, reason: str = "the keep is stopping") -> None:
        self._relayed.discard(relayed)
        for end in (relayed.connection, relayed.plain):
            if end is not None:
                self._by_descriptor.pop(end.fileno(), None)
                end.close()
        relayed.give(None, reason)

    def _patience(self) -> float | None:
        deadlines = [relayed.deadline for relayed in self._relayed if relayed.deadline is not None]
        return None if not deadlines else max(0.0, min(deadlines) - time.monotonic())

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for relayed in tuple(self._relayed):
            if relayed.deadline is not None and relayed.deadline <= now:
                if relayed.done is not None:
                    self._warnings.warning("TLS handshake of a workload took longer than %g s", HANDSHAKE_SECONDS)
                self._end(relayed, f"the handshake took longer than {HANDSHAKE_SECONDS:g} s")


class _Relayed:
    """One connection. In each direction one block at most waits: who is slow holds up who is fast."""

    def __init__(self, connection: socket.socket, tls: ssl.SSLContext, server_hostname: str | None, done: Done) -> None:
        self.connection = connection
        self.plain: socket.socket | None = None
        """Our end; there is one when the handshake is over."""
        self.done: Done | None = done
        self.deadline: float | None = time.monotonic() + HANDSHAKE_SECONDS
        self.watched: dict[int, int] = {}
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(
            self._arrived, self._leaving, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._block = bytearray(_BLOCK)
        self._to_guest = memoryview(b"")
        self._to_peer = memoryview(b"")
        self._peer_ended = False
        """No more bytes will come from the peer."""
        self._guest_ended = False
        """No more bytes will come from the guest."""
        self._closing_sent = False
        self._guest_told = False
        """The guest has been told that the peer has ended, or does not read any more."""
        self._dead: set[int] = set()
        """Descriptors from and to which nothing goes any more."""
        self._unwatched: list[int] = []

    @property
    def over(self) -> bool:
        if self.connection.fileno() in self._dead:
            return self._guest_told
        return self._closing_sent and not self._to_peer and self._guest_told

    def take_dead(self) -> list[int]:
        """Descriptors that must not be waited for any more, each once."""
        taken, self._unwatched = self._unwatched, []
        return taken

    def interest(self) -> list[tuple[int, int]]:
        """What to wait for, by descriptor."""
        wanted = []
        if self.connection.fileno() not in self._dead:
            reading = 0 if self._peer_ended or self._to_guest else _IN
            wanted.append((self.connection.fileno(), reading | (_OUT if self._to_peer else 0)))
        if self.plain is not None and self.plain.fileno() not in self._dead:
            reading = 0 if self._guest_ended or self._to_peer else _IN
            wanted.append((self.plain.fileno(), reading | (_OUT if self._to_guest else 0)))
        return wanted

    def advance(self, descriptor: int, events: int) -> None:
        """Do what can be done without waiting. Raises `OSError` and `ssl.SSLError` when it cannot go on."""
        if descriptor == self.connection.fileno():
            if events & _GONE:
                self._peer_gone()
            elif events & _OUT:
                self._send_to_peer()
            if events & _IN:
                self._receive_from_peer()
        elif self.plain is not None and descriptor == self.plain.fileno():
            if events & _GONE:
                self._guest_gone()
            elif events & _OUT:
                self._send_to_guest()
            if events & _IN and not self._to_peer:
                self._receive_from_guest()
        if self.plain is None:
            self._shake_hands()
        if self.plain is not None:
            self._decrypt()
            self._finish_ours()

    def give(self, guest: socket.socket | None, reason: str | None) -> None:
        """Tell how the handshake ended, once."""
        if (done := self.done) is not None:
            self.done = None
            done(guest, reason)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._peer_ended:
                raise ConnectionResetError("the peer went away") from None
            self._drain()
            return
        except ssl.SSLError:
            # The peer is to hear why.
            self._drain()
            raise
        self._drain()
        self.plain, guest = socket.socketpair()
        self.plain.setblocking(False)
        self.deadline = None
        self.give(guest, None)

    def _receive_from_peer(self) -> None:
        if self._peer_ended or self._to_guest:
            return
        try:
            data = self.connection.recv(_BLOCK)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self._arrived.write(data)
        else:
            self._peer_ended = True
            self._arrived.write_eof()

    def _peer_gone(self) -> None:
        """The connection is cut: what had come is still the guest's."""
        while not self._peer_ended:
            try:
                data = self.connection.recv(_BLOCK)
            except OSError:
                data = b""
            if data:
                self._arrived.write(data)
            else:
                self._peer_ended = True
                self._arrived.write_eof()
        self._to_peer = memoryview(b"")
        self._forget(self.connection.fileno())

    def _forget(self, descriptor: int) -> None:
        if descriptor not in self._dead:
            self._dead.add(descriptor)
            self._unwatched.append(descriptor)

    def _decrypt(self) -> None:
        """Give the guest what has come, block by block, until it does not keep up."""
        while not self._to_guest and not self._guest_told:
            view, filled, ended = memoryview(self._block), 0, False
            try:
                while filled <= len(self._block) - _RECORD:
                    count = _read_into(self._tls, view[filled:])
                    if count == 0:
                        ended = True
                        break
                    filled += count
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                ended = True
            self._drain()
            if filled:
                self._to_guest = view[:filled]
                self._send_to_guest()
            if ended and not self._to_guest:
                self._tell_guest()
            if not filled:
                break

    def _tell_guest(self) -> None:
        """The peer has said its last."""
        self._peer_ended = True
        self._guest_told = True
        if self.plain is not None:
            with contextlib.suppress(OSError):
                self.plain.shutdown(socket.SHUT_WR)

    def _send_to_guest(self) -> None:
        if self.plain is None:
            return
        try:
            while self._to_guest:
                self._to_guest = self._to_guest[self.plain.send(self._to_guest) :]
        except (BlockingIOError, InterruptedError):
            return
        except (BrokenPipeError, ConnectionResetError):
            self._guest_reads_no_more()

    def _guest_reads_no_more(self) -> None:
        self._to_guest = memoryview(b"")
        self._peer_ended = True
        self._guest_told = True

    def _guest_gone(self) -> None:
        """The guest has closed its end: what it has written still goes out, if the peer takes it in time."""
        assert self.plain is not None
        self._guest_reads_no_more()
        while not self._guest_ended:
            self._receive_from_guest()
        self._forget(self.plain.fileno())
        if self.deadline is None:
            self.deadline = time.monotonic() + FLUSH_SECONDS

    def _receive_from_guest(self) -> None:
        if self.plain is None or self._guest_ended:
            return
        try:
            data = self.plain.recv(_BLOCK)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._guest_ended = True
            return
        self._tls.write(data)
        self._drain()

    def _finish_ours(self) -> None:
        """Say close_notify once the guest has ended. OpenSSL refuses that while it holds bytes of the peer's."""
        if not self._guest_ended or self._closing_sent or self._to_peer or (self._to_guest and not self._guest_told):
            return
        self._closing_sent = True
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._drain()

    def _drain(self) -> None:
        """Send what OpenSSL has to say."""
        if self.connection.fileno() in self._dead:
            self._leaving.read()
            return
        if self._leaving.pending:
            self._to_peer = memoryview(bytes(self._to_peer) + self._leaving.read())
        self._send_to_peer()

    def _send_to_peer(self) -> None:
        try:
            while self._to_peer:
                self._to_peer = self._to_peer[self.connection.send(self._to_peer) :]
        except (BlockingIOError, InterruptedError):
            return


def _read_into(tls: ssl.SSLObject, place: memoryview) -> int:
    """At most one record, decrypted. With a buffer `read` returns a count, which its type does not say."""
    return cast(int, tls.read(len(place), place))
