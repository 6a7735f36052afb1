"""One TLS connection of a guest: what comes from its peer is decrypted for the guest, and the other way round.

OpenSSL works on memory, never on the socket itself: so everything that has come is decrypted before anybody sleeps, and
nothing decrypted waits where poll(2) does not see it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

HANDSHAKE_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 5.0
"""For the peer to take what the guest has written before it closed."""

BLOCK: Final = 128 * 1024
"""Bytes that pass in one step."""
CUT: Final = b"!"
"""The guest's end gets this byte, with a descriptor beside it, when the connection ended without TLS's farewell."""
_RECORD: Final = 16 * 1024
"""Plain bytes of the largest TLS record."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR

Done = Callable[["socket.socket | None", "str | None"], None]
"""Gets the guest's end when the handshake is over, or None and the reason when it failed. Called in the thread."""


class Relayed:
    """One connection. In each direction one block at most waits: who is slow holds up who is fast."""

    def __init__(
        self,
        connection: socket.socket,
        tls: ssl.SSLContext,
        server_hostname: str | None,
        done: Done,
        *,
        scratch: memoryview,
        token: int,
    ) -> None:
        """All connections share `scratch`, where bytes pass through in one step, and `token`, which goes with `CUT`."""
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
        self._scratch = scratch
        self._token = token
        self._block = bytearray(BLOCK)
        self._to_guest = memoryview(b"")
        self._to_peer = memoryview(b"")
        self._peer_ended = False
        """No more bytes will come from the peer."""
        self._peer_finished = False
        """All that the peer has said is decrypted: there is its farewell, or there will be none."""
        self._cut = False
        """It went without a farewell, or broke the protocol: what is missing, nobody can tell."""
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
            writing = self._to_guest or (self._cut and not self._guest_told)
            wanted.append((self.plain.fileno(), reading | (_OUT if writing else 0)))
        return wanted

    def advance(self, descriptor: int, events: int) -> None:
        """Do what can be done without waiting. Raises `OSError` and `ssl.SSLError` when the handshake fails."""
        try:
            self._exchange(descriptor, events)
        except (OSError, ssl.SSLError):
            if self.plain is None:
                raise
            self._peer_gone()
            self._decrypt()

    def _exchange(self, descriptor: int, events: int) -> None:
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
            count = self.connection.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        if count:
            self._arrived.write(self._scratch[:count])
        else:
            self._peer_ended = True
            self._arrived.write_eof()

    def _peer_gone(self) -> None:
        """The connection is cut: what had come is still the guest's."""
        while not self._peer_ended:
            try:
                count = self.connection.recv_into(self._scratch)
            except OSError:
                count = 0
            if count:
                self._arrived.write(self._scratch[:count])
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
            filled = self._fill()
            self._drain()
            if filled:
                self._to_guest = memoryview(self._block)[:filled]
                self._send_to_guest()
            if self._peer_finished and not self._to_guest:
                self._tell_guest()
                break
            if not filled:
                break

    def _fill(self) -> int:
        """Decrypt into the block what is there; how many bytes that are."""
        view, filled = memoryview(self._block), 0
        try:
            # OpenSSL takes a record's bytes out of the BIO as it reads them: an empty one has nothing to decrypt, and
            # to hear so by an exception costs as much as a small record.
            while not self._peer_finished and filled <= len(self._block) - _RECORD and self._has_more():
                count = _read_into(self._tls, view[filled:])
                self._peer_finished = count == 0
                filled += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._peer_finished = True
        except ssl.SSLError:
            self._peer_finished = self._cut = True
        return filled

    def _has_more(self) -> bool:
        return bool(self._arrived.pending or self._tls.pending() or self._peer_ended)

    def _tell_guest(self) -> None:
        """The peer has said its last, and the guest has got it. An end that others can forge is none: RFC 8446, 6.1."""
        self._peer_ended = True
        if self.plain is None:
            return
        if self._cut:
            try:
                socket.send_fds(self.plain, [CUT], [self._token])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # it does not read any more
                pass
            self._to_peer = memoryview(b"")
            self._forget(self.connection.fileno())
        self._guest_told = True
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
            count = self.plain.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            count = 0
        if not count:
            self._guest_ended = True
            return
        self._tls.write(self._scratch[:count])
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
            said = self._leaving.read()
            self._to_peer = memoryview(bytes(self._to_peer) + said if self._to_peer else said)
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
