"""A connection to a server of the outside, plain or by TLS, that never blocks: what goes out waits until it can."""

from __future__ import annotations

import contextlib

# The names of servers are encoded with it, by a process that can open no files any more.
import encodings.idna  # noqa: F401
import select
import socket
import ssl

_BLOCK = 64 * 1024


class Wire:
    """A connected TCP socket; with a context, TLS that checks `host`."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext | None, host: str) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._unsent = bytearray()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._shaken = context is None
        self._plain = bytearray()
        """What waits for the end of the handshake."""

    @property
    def established(self) -> bool:
        """Whether the handshake, if there is one, is done."""
        return self._shaken

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._unsent) + len(self._plain)

    def waits_for(self) -> tuple[int, int]:
        """What to poll for progress."""
        return self._socket.fileno(), select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self, content: bytes) -> None:
        """Let it go out as soon as possible. Raises `OSError`."""
        if not content:
            return
        if not self._shaken:
            self._plain += content
        elif self._tls is None:
            self._unsent += content
        else:
            self._tls.write(content)
        self.flush()

    def receive(self) -> bytes | None:
        """What has come: empty at the end, None if nothing is there yet. Raises `OSError` (`ssl.SSLError` too)."""
        if self._tls is None:
            return self._read()
        while True:
            try:
                if not self._shaken:
                    self._tls.do_handshake()
                    self._shaken = True
                    waiting, self._plain = bytes(self._plain), bytearray()
                    self.send(waiting)
                return self._tls.read(_BLOCK)
            except ssl.SSLWantReadError:
                self.flush()
                block = self._read()
                if block is None:
                    return None
                if block:
                    self._incoming.write(block)
                else:
                    self._incoming.write_eof()
            except ssl.SSLZeroReturnError:
                return b""

    def flush(self) -> None:
        """Send what the socket takes. Raises `OSError`."""
        self._unsent += self._outgoing.read()
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent[:_BLOCK])]

    def close(self) -> None:
        """Close the socket, whatever is unsent."""
        self._socket.close()

    def _read(self) -> bytes | None:
        try:
            return self._socket.recv(_BLOCK)
        except BlockingIOError:
            return None
