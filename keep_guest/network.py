"""The network inside a machine: stands where other keeps have their broker, and asks the host's through the channel."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from keep_guest.data_channel import DataChannel
from keep_protocol.broker import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.channel import NETWORK_SERVICE, NOBODY_LISTENS
from keep_protocol.strict_json import decode_strictly

MAX_REQUESTS: Final = 64
"""At a time; further ones wait to be accepted."""

_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 128
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_INTERFACE_FLAGS: Final = struct.Struct("16sH22x")
"""struct ifreq with ifr_flags; netdevice(7)."""


def raise_loopback() -> None:
    """Give the machine its only interface: what listens inside is reached by it. Raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE_FLAGS.pack(b"lo", _IFF_UP))


def connect_port(port: int) -> socket.socket:
    """A connection, perhaps not yet made, to what listens inside. Raises `OSError`."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    failed = connection.connect_ex((_LOOPBACK, port))
    if failed not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(failed, NOBODY_LISTENS if failed == errno.ECONNREFUSED else os.strerror(failed))
    return connection


class NetworkRelay:
    """Takes the requests of the app-loader, which checks them and their answers; the host's broker checks them too."""

    def __init__(self, selector: selectors.BaseSelector, channel: DataChannel, path: Path) -> None:
        """Listens at `path`. Raises `OSError`."""
        self._selector = selector
        self._channel = channel
        self._open = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(MAX_REQUESTS)
        self._watch()

    def _watch(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())

    def _accept(self) -> None:
        try:
            asking, _ = self._listener.accept()
        except OSError:
            return
        asking.setblocking(False)
        self._open += 1
        if self._open == MAX_REQUESTS:
            self._selector.unregister(self._listener)
        self._selector.register(asking, selectors.EVENT_READ, lambda _: self._ask(asking))

    def _ask(self, asking: socket.socket) -> None:
        self._selector.unregister(asking)
        try:
            message = asking.recv(MAX_MESSAGE)
            request = decode_strictly(message, BrokerRequest)
        except (OSError, msgspec.MsgspecError):
            self._close(asking)
            return
        if request.operation is BrokerOperation.BIND:
            self._bind(asking, request.port, message)
        else:
            connects = request.operation is BrokerOperation.CONNECT
            self._call(message, lambda told: self._answered(asking, told, connects=connects))

    def _call(self, request: bytes, answered: Callable[[BrokerAnswer], socket.socket | None]) -> None:
        self._channel.call(NETWORK_SERVICE, request, MAX_MESSAGE, lambda answer: answered(_decoded(answer)))

    def _answered(self, asking: socket.socket, told: BrokerAnswer, *, connects: bool) -> socket.socket | None:
        """Give the app-loader its answer, and its end of a connection; ours is for the channel."""
        if told.result is not BrokerResult.OK or not connects:
            self._tell(asking, told)
            return None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            if self._tell(asking, told, theirs):
                return ours
        ours.close()
        return None

    def _bind(self, asking: socket.socket, port: int, message: bytes) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_LOOPBACK, port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            listener.close()
            reason = f"port {port} inside the machine: {error}"
            self._tell(asking, BrokerAnswer(PROTOCOL_VERSION, BrokerResult.PORT_TAKEN, reason))
            return

        def answered(told: BrokerAnswer) -> None:
            with listener:
                self._tell(asking, told, listener if told.result is BrokerResult.OK else None)

        self._call(message, answered)

    def _tell(self, asking: socket.socket, answer: BrokerAnswer, given: socket.socket | None = None) -> bool:
        """Whether the one who asked is still there."""
        try:
            socket.send_fds(asking, [msgspec.json.encode(answer)], [given.fileno()] if given else [])
        except OSError:
            return False
        finally:
            self._close(asking)
        return True

    def _close(self, asking: socket.socket) -> None:
        asking.close()
        if self._open == MAX_REQUESTS:
            self._watch()
        self._open -= 1


def _decoded(answer: bytes | None) -> BrokerAnswer:
    if answer is not None:
        with contextlib.suppress(msgspec.MsgspecError):
            return decode_strictly(answer, BrokerAnswer)
    return BrokerAnswer(PROTOCOL_VERSION, BrokerResult.UNREACHABLE, "the host carries no connections")
