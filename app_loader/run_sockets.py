"""The sockets of a run: the server has them opened, accepts for the guest, and hands over what can be used at once.

The guest's process makes and accepts none itself. For a listening socket it has a channel, over which connections come
ready: with TLS after the handshake, so a client that says nothing delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from app_loader.errors import AppLoaderError
from app_loader.runner_messages import GuestFile
from keep_protocol.bounded_log import BoundedLog
from keep_protocol.egress.errors import EgressError
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.workload_configuration import ConnectFile, Descriptor, ListenFile, SocketProtocol

if TYPE_CHECKING:
    from app_loader.workload_tls import WorkloadTls

MAX_UNACCEPTED: Final = 16
"""Connections of one listening socket that the guest has not accepted, or that shake hands; others wait outside."""

_ACCEPT_PAUSE: Final = 0.5
_logger = logging.getLogger(__name__)


class Network(Protocol):
    """Where sockets come from; `app_loader.network.Network` is one."""

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        """A connected TCP socket, non-blocking. Raises `AppLoaderError`."""

    async def bind(self, port: int, address: str = "") -> socket.socket:
        """A listening TCP socket, non-blocking; at one address, if it is given. Raises `AppLoaderError`."""


def guest_files(files: Sequence[Descriptor] | None) -> tuple[GuestFile, ...] | None:
    """What the run's process is told of them."""
    return None if files is None else tuple(GuestFile(file.__struct_config__.tag) for file in files)  # type: ignore[arg-type]


def descriptor_environment(files: Sequence[Descriptor] | None) -> tuple[tuple[str, str], ...]:
    """`FD_COUNT` and `FD_NAMES` as Enarx sets them, before the guest's own variables; nothing without `files`."""
    if files is None:
        return ()
    return (("FD_COUNT", str(len(files))), ("FD_NAMES", ":".join(map(_name, files))))


def _name(file: Descriptor) -> str:
    if file.name is not None:
        return file.name
    return file.host if isinstance(file, ConnectFile) else str(file.__struct_config__.tag)


class RunSockets:
    """One run's, from their opening to the end of the run."""

    def __init__(self, folder: int) -> None:
        """`folder` is the descriptor of an empty folder, which becomes the first of `descriptors`."""
        self.descriptors: list[int] = [folder]
        """For the run's process, in the order of the files. Whoever starts it takes them over by `take`."""
        self._listeners: list[_Listening] = []

    def take(self) -> tuple[int, ...]:
        """The descriptors, which become the caller's to close."""
        taken, self.descriptors = tuple(self.descriptors), []
        return taken

    def add_connection(self, connection: socket.socket) -> None:
        self.descriptors.append(connection.detach())

    def add_listener(self, listener: socket.socket, hand_over: HandOver) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.descriptors.append(theirs.detach())
        self._listeners.append(_Listening(listener, ours, hand_over))

    def close(self) -> None:
        """Nobody is accepted any more; what was not taken is closed. Relayed ones end when the guest's end does."""
        for descriptor in self.take():
            os.close(descriptor)
        for listener in self._listeners:
            listener.close()


HandOver = Callable[[socket.socket, Callable[["socket.socket | None"], None]], None]
"""Gets a connection that was accepted, and calls back with what the guest gets of it, or None if that is nothing."""


def hand_over_plain(connection: socket.socket, done: Callable[[socket.socket | None], None]) -> None:
    """For TCP: the guest gets the connection itself."""
    done(connection)


class _Listening:
    """Accepts while the guest keeps up."""

    def __init__(self, listener: socket.socket, channel: socket.socket, hand_over: HandOver) -> None:
        self._listener = listener
        self._channel = channel
        self._hand_over = hand_over
        self._waiting = 0
        """Connections on their way to the guest."""
        self._accepting = False
        self._closed = False
        self._warnings = BoundedLog(_logger)
        listener.setblocking(False)
        channel.setblocking(False)
        asyncio.get_running_loop().add_reader(channel, self._taken)
        self._go_on()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        loop.remove_reader(self._channel)
        self._listener.close()
        self._channel.close()

    def _go_on(self) -> None:
        wanted = not self._closed and self._waiting < MAX_UNACCEPTED
        if wanted != self._accepting:
            self._accepting = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self._listener, self._accept)
            elif not self._closed:
                loop.remove_reader(self._listener)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            # Out of descriptors: the listener stays readable and would keep the loop spinning.
            self._warnings.warning("no connection can be accepted for a run: %s", error.strerror)
            asyncio.get_running_loop().remove_reader(self._listener)
            self._accepting = False
            asyncio.get_running_loop().call_later(_ACCEPT_PAUSE, self._go_on)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting += 1
        self._go_on()
        self._hand_over(connection, self._ready)

    def _ready(self, given: socket.socket | None) -> None:
        if given is None or self._closed:
            self._waiting -= 1
            if given is not None:
                given.close()
            self._go_on()
            return
        # There is room: the guest has at most MAX_UNACCEPTED messages to read. It may have gone.
        with given, contextlib.suppress(OSError):
            socket.send_fds(self._channel, [b"c"], [given.fileno()])

    def _taken(self) -> None:
        """The guest has accepted, or closed its end."""
        try:
            message = self._channel.recv(16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message = b""
        if not message:
            self.close()
            return
        self._waiting -= 1
        self._go_on()


class SocketOpener:
    """Opens the sockets that a workload's configuration names."""

    def __init__(
        self,
        network: Callable[[], Network] | None,
        folder: Path,
        tls: Callable[[], WorkloadTls] | None = None,
    ) -> None:
        """`network` and `tls` are made when they are first wanted; None: there is none.

        In `folder` an empty one can be made; the runner must be allowed to read it, or no run could open what is in it.
        """
        self._make_network = network
        self._folder = folder
        self._make_tls = tls

    async def open(self, files: Sequence[Descriptor]) -> RunSockets:
        """All of them, or none. Raises `RefusalError` (`socket-unavailable`) that names the one that cannot be had."""
        sockets = RunSockets(self._empty_folder())
        with contextlib.ExitStack() as undo:
            undo.callback(sockets.close)
            for number, file in enumerate(files):
                try:
                    if isinstance(file, ListenFile):
                        await self._listen(sockets, file)
                    elif isinstance(file, ConnectFile):
                        await self._connect(sockets, file)
                except (AppLoaderError, EgressError, OSError) as error:
                    raise _unavailable(number, file, error) from None
            undo.pop_all()
        return sockets

    async def _listen(self, sockets: RunSockets, file: ListenFile) -> None:
        if file.prot is SocketProtocol.TCP:
            sockets.add_listener(await self._network().bind(file.port, file.address), hand_over_plain)
            return
        # Checked before the port is open: its roots may be none.
        accepting = self._tls().accepting(file.tls)
        sockets.add_listener(await self._network().bind(file.port, file.address), accepting)

    async def _connect(self, sockets: RunSockets, file: ConnectFile) -> None:
        tls = self._tls().connecting(file.host, file.tls) if file.prot is SocketProtocol.TLS else None
        connection = await self._network().connect(file.host, file.port)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.add_connection(connection if tls is None else await tls(connection))

    def _network(self) -> Network:
        if self._make_network is None:
            raise AppLoaderError("this keep has no network")
        return self._make_network()

    def _tls(self) -> WorkloadTls:
        if self._make_tls is None:
            raise AppLoaderError("this keep does no TLS for its workload")
        return self._make_tls()

    def _empty_folder(self) -> int:
        """Of no name, so that nothing can ever be in it."""
        path = self._folder / f"empty-{os.urandom(8).hex()}"
        path.mkdir(mode=0o500)
        try:
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            path.rmdir()


def _unavailable(number: int, file: Descriptor, error: Exception) -> RefusalError:
    what = "be opened"
    if isinstance(file, ListenFile):
        what = f"listen on port {file.port}" + (f" at {file.address}" if file.address else "")
    elif isinstance(file, ConnectFile):
        what = f"connect to {file.host}:{file.port}"
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return RefusalError(
        ErrorCode.SOCKET_UNAVAILABLE, f"files[{number}] cannot {what}: {reason}", field=f"$.files[{number}]"
    )
