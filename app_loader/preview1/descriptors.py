"""The descriptors that are ours: connections, listening sockets, and streams at numbers where WASI has none."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import termios
from typing import Final

NONBLOCK: Final = 1 << 2
"""The only flag of a descriptor that means something here; `fdflags` of preview 1."""

FILETYPE_UNKNOWN: Final = 0
FILETYPE_SOCKET_STREAM: Final = 6

_READ: Final = 1 << 1
_SET_FLAGS: Final = 1 << 3
_WRITE: Final = 1 << 6
_FILESTAT: Final = 1 << 21
_POLL: Final = 1 << 27
_SHUTDOWN: Final = 1 << 28
_ACCEPT: Final = 1 << 29
_COMMON: Final = _SET_FLAGS | _FILESTAT | _POLL
RIGHTS_OF_CONNECTION: Final = _COMMON | _READ | _WRITE | _SHUTDOWN

ACCEPTED: Final = b"a"
"""What a listening socket's channel carries back for each connection that the guest has taken."""

_ROOM_BESIDE: Final = socket.CMSG_SPACE(4)

_ATOMIC_WRITE: Final = 4096
"""Bytes that go into a pipe without waiting once poll(2) says that it is writable; PIPE_BUF."""


class Descriptor:
    """One descriptor of the guest. Every call of it may be refused with `OSError`, as one of the host's is.

    The host's descriptor is `host`, -1 for none. Calls never wait: they raise `BlockingIOError`.
    """

    filetype = FILETYPE_UNKNOWN
    rights = _COMMON
    inheriting_rights = 0
    preopened = False
    """Whether the guest had it from the beginning."""

    def __init__(self, host: int) -> None:
        self.host = host
        self.flags = 0

    def read(self, parts: list[memoryview]) -> int:
        raise OSError(errno.EBADF, "not open for reading")

    def write(self, parts: list[memoryview]) -> int:
        raise OSError(errno.EBADF, "not open for writing")

    def receive(self, parts: list[memoryview], *, peek: bool) -> int:
        raise OSError(errno.ENOTSOCK, "not a socket")

    def send(self, parts: list[memoryview]) -> int:
        raise OSError(errno.ENOTSOCK, "not a socket")

    def accept(self) -> Descriptor:
        raise OSError(errno.ENOTSOCK, "not a socket")

    def shutdown(self, how: int) -> None:
        raise OSError(errno.ENOTSOCK, "not a socket")

    def unread(self) -> int:
        """Bytes that can be read at once, when it is known to be readable."""
        return 1

    def close(self) -> None:
        """Free the host's descriptor."""
        if self.host >= 0:
            os.close(self.host)
            self.host = -1


class Connection(Descriptor):
    """A connected stream socket of TCP."""

    filetype = FILETYPE_SOCKET_STREAM
    rights = RIGHTS_OF_CONNECTION

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection.fileno())
        self._socket = connection
        # Whoever blocks in the read itself is woken by the first half of a block, and sends that back alone.
        self._socket.setblocking(False)

    def read(self, parts: list[memoryview]) -> int:
        if len(parts) == 1:
            return self._socket.recv_into(parts[0])
        return self._socket.recvmsg_into(parts)[0]

    def write(self, parts: list[memoryview]) -> int:
        if len(parts) == 1:
            return self._socket.send(parts[0])
        return self._socket.sendmsg(parts)

    def receive(self, parts: list[memoryview], *, peek: bool) -> int:
        return self._socket.recvmsg_into(parts, 0, socket.MSG_PEEK if peek else 0)[0]

    def send(self, parts: list[memoryview]) -> int:
        return self.write(parts)

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def unread(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self.host, termios.FIONREAD, bytes(4)))[0])

    def close(self) -> None:
        self._socket.close()
        self.host = -1


class RelayedConnection(Connection):
    """A connection to who does TLS for the guest; a byte with a descriptor beside it says that the peer was cut off."""

    _cut = False

    def read(self, parts: list[memoryview]) -> int:
        return self.receive(parts, peek=False)

    def receive(self, parts: list[memoryview], *, peek: bool) -> int:
        if not self._cut:
            flags = socket.MSG_PEEK if peek else 0
            count, beside, state, _ = self._socket.recvmsg_into(parts, _ROOM_BESIDE, flags)
            if not beside and not state & socket.MSG_CTRUNC:
                return count
            for _, _, descriptors in beside:
                os.close(int.from_bytes(descriptors[:4], sys.byteorder))
            # What came before it is still the guest's; the kernel adds nothing to a message after such a byte.
            self._cut = not peek
            if count > 1:
                return count - 1
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended without TLS's farewell")


def connection_of(descriptor: int) -> Connection:
    """The one that a host's descriptor is; it becomes the connection's."""
    connection = socket.socket(fileno=descriptor)
    return (RelayedConnection if connection.family == socket.AF_UNIX else Connection)(connection)


class Listener(Descriptor):
    """A listening socket. The server accepts: what comes over this channel are connections, ready to be used."""

    filetype = FILETYPE_SOCKET_STREAM
    rights = _COMMON | _ACCEPT
    inheriting_rights = RIGHTS_OF_CONNECTION

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._channel = socket.socket(fileno=descriptor)
        self._channel.setblocking(False)

    def read(self, parts: list[memoryview]) -> int:
        raise OSError(errno.ENOTCONN, "it listens")

    def write(self, parts: list[memoryview]) -> int:
        raise OSError(errno.ENOTCONN, "it listens")

    def receive(self, parts: list[memoryview], *, peek: bool) -> int:
        raise OSError(errno.ENOTCONN, "it listens")

    def send(self, parts: list[memoryview]) -> int:
        raise OSError(errno.ENOTCONN, "it listens")

    def accept(self) -> Connection:
        message, descriptors, flags, _ = socket.recv_fds(self._channel, 16, 1)
        if not message:
            raise OSError(errno.EIO, "the keep has closed the listening socket")
        self._channel.send(ACCEPTED)
        if flags & socket.MSG_CTRUNC or not descriptors:
            raise OSError(errno.EMFILE, "no descriptor is free for the connection, which is lost")
        return connection_of(descriptors[0])

    def shutdown(self, how: int) -> None:
        raise OSError(errno.ENOTCONN, "it listens")

    def close(self) -> None:
        self._channel.close()
        self.host = -1


class Input(Descriptor):
    """The run's standard input. Wasmtime reads ahead, and poll(2) misses what it holds: so not through wasmtime."""

    rights = _COMMON | _READ

    def read(self, parts: list[memoryview]) -> int:
        if not _ready(self.host, select.POLLIN):
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        return os.readv(self.host, parts)

    def unread(self) -> int:
        try:
            return int(struct.unpack("i", fcntl.ioctl(self.host, termios.FIONREAD, bytes(4)))[0])
        except OSError:  # /dev/null has no such number
            return 0


class Output(Descriptor):
    """Standard output or standard error at a number where WASI has neither."""

    rights = _COMMON | _WRITE

    def write(self, parts: list[memoryview]) -> int:
        if not _ready(self.host, select.POLLOUT):
            raise BlockingIOError(errno.EAGAIN, "no room")
        return os.write(self.host, parts[0][:_ATOMIC_WRITE])


class Null(Descriptor):
    """At its end, and without bottom."""

    rights = _COMMON | _READ | _WRITE

    def __init__(self) -> None:
        super().__init__(-1)

    def read(self, parts: list[memoryview]) -> int:
        return 0

    def write(self, parts: list[memoryview]) -> int:
        return sum(map(len, parts))

    def unread(self) -> int:
        return 0


def _ready(descriptor: int, event: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(0))
