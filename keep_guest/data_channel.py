"""The guest's end of the serial data channel: streams become connections of the app-loader and of its workloads."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from keep_protocol.channel import (
    Aborted,
    ChannelError,
    Credited,
    Ended,
    Event,
    Multiplexer,
    Opened,
    Received,
    Role,
    StreamClosedError,
)
from keep_protocol.framed_message import FramedMessage, framed

_CHUNK = 64 * 1024
_BUFFER = 4096
"""Bytes of each of the port's buffers in the kernel, of which read(2) gives one."""
_MAX_READS = 4
"""Times that the port is read before others get their turn."""

Answered = Callable[[bytes | None], socket.socket | None]
"""Takes the answer to a call, None when there will be none; gives the connection that goes on with its stream."""


@dataclass
class _Connection:
    """One stream's socket to the app-loader, and what waits to be written to it."""

    stream: int
    socket: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """The host sends no more; said to the app-loader when all is written."""
    finished: bool = False
    """The app-loader sends no more."""
    interest: int = 0


@dataclass
class _Call:
    """A stream of ours whose first message from the host is awaited."""

    answered: Answered
    answer: FramedMessage
    unsent: bytes


class DataChannel:
    """Moves bytes between the port and the app-loader's socket, never more at a time than the other side takes.

    A host that breaks the framing ends every connection, and the channel begins anew; what the streams carry is TLS,
    so no client mistakes that for anything but a broken network.
    """

    def __init__(
        self, selector: selectors.BaseSelector, port: int, connect: Callable[[str], socket.socket | None]
    ) -> None:
        """`connect` gives the connection for a stream to the named service, None when there is no such service."""
        self._selector = selector
        self._port = port
        self._connect = connect
        self._multiplexer = Multiplexer(Role.GUEST)
        self._connections: dict[int, _Connection] = {}
        self._calls: dict[int, _Call] = {}
        self._port_interest = 0
        self._input = memoryview(bytearray(_CHUNK))
        self._pages = [self._input[start : start + _BUFFER] for start in range(0, _CHUNK, _BUFFER)]
        self._watch_port()

    @property
    def broken(self) -> bool:
        """Whether the port is not being watched, because its host is gone; `retry` tries it again."""
        return self._port_interest == 0

    def retry(self) -> None:
        """Watch the port again, for a host that may be back."""
        if self.broken:
            self._watch_port()

    def call(self, service: str, request: bytes, limit: int, answered: Answered) -> None:
        """Ask a service of the host's; the answer has at most `limit` bytes."""
        try:
            stream = self._multiplexer.open(service)
        except ChannelError:
            answered(None)
            return
        self._calls[stream] = _Call(answered, FramedMessage(limit), framed(request))
        self._settle()

    def _serve_port(self, ready: int) -> None:
        try:
            if ready & selectors.EVENT_READ and not self._read_port():
                # virtio-serial's way to say that nobody is connected on the host.
                self._begin_anew(watch=False)
                return
            self._write_port()
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ChannelError) as error:
            print(f"data channel: {error}", flush=True)
            self._begin_anew(watch=False)
            return
        self._settle()

    def _read_port(self) -> bool:
        """Take what has come; False at the end."""
        for _ in range(_MAX_READS):
            try:
                # One call for many of the kernel's buffers.
                count = os.readv(self._port, self._pages)
            except (BlockingIOError, InterruptedError):
                break
            if count == 0:
                return False
            for event in self._multiplexer.receive(self._input[:count]):
                self._handle(event)
        return True

    def _begin_anew(self, *, watch: bool) -> None:
        for connection in tuple(self._connections.values()):
            self._drop(connection)
        calls, self._calls = self._calls, {}
        self._multiplexer = Multiplexer(Role.GUEST)
        for call in calls.values():
            call.answered(None)
        if self._port_interest:
            self._selector.unregister(self._port)
            self._port_interest = 0
        if watch:
            self._watch_port()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._open(event)
            return
        if event.stream in self._calls:
            self._take_answer(event)
            return
        connection = self._connections.get(event.stream)
        if connection is None:
            return
        if isinstance(event, Received):
            self._pass_on(connection, event.data)
        elif isinstance(event, Ended):
            connection.ended = True
            self._write_socket(connection)
        elif isinstance(event, Aborted):
            self._drop(connection)
        elif isinstance(event, Credited):
            pass  # `_settle` watches its socket again

    def _pass_on(self, connection: _Connection, data: memoryview) -> None:
        """Write it at once if nothing waits before it; the rest is copied, for its buffer is read into again."""
        if not connection.waiting:
            try:
                count = connection.socket.send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self._give_up(connection, error.strerror or "connection lost")
                return
            self._multiplexer.acknowledge(connection.stream, count)
            data = data[count:]
        connection.waiting += data

    def _take_answer(self, event: Event) -> None:
        call = self._calls[event.stream]
        if isinstance(event, Credited):
            return
        answer = None
        if isinstance(event, Received):
            with contextlib.suppress(StreamClosedError):
                answer = call.answer.feed(event.data)
                if answer is None:
                    return
        del self._calls[event.stream]
        inner = call.answered(answer)
        if inner is None or answer is None:
            self._multiplexer.abort(event.stream)
            return
        connection = self._connections[event.stream] = _Connection(event.stream, inner)
        connection.waiting += call.answer.rest
        self._multiplexer.acknowledge(event.stream, call.answer.size)
        self._write_socket(connection)

    def _open(self, event: Opened) -> None:
        try:
            inner = self._connect(event.service)
        except OSError as error:
            self._multiplexer.abort(event.stream, error.strerror or type(error).__name__)
            return
        if inner is None:
            self._multiplexer.abort(event.stream, f"there is no service {event.service!r}")
            return
        self._connections[event.stream] = _Connection(event.stream, inner)

    def _serve_socket(self, connection: _Connection, ready: int) -> None:
        if connection.stream not in self._connections:
            return
        try:
            if ready & selectors.EVENT_WRITE:
                self._write_socket(connection)
            if ready & selectors.EVENT_READ and connection.stream in self._connections:
                self._read_socket(connection)
            self._write_port()
        except (BlockingIOError, InterruptedError):
            pass
        except ChannelError as error:
            print(f"data channel: {error}", flush=True)
            self._begin_anew(watch=False)
            return
        self._settle()

    def _read_socket(self, connection: _Connection) -> None:
        room = min(self._multiplexer.writable(connection.stream), _CHUNK)
        if room == 0:
            return
        try:
            data = connection.socket.recv(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._give_up(connection, error.strerror or "connection lost")
            return
        if data:
            self._multiplexer.send(connection.stream, data)
            return
        connection.finished = True
        self._multiplexer.end(connection.stream)
        self._drop_if_over(connection)

    def _write_socket(self, connection: _Connection) -> None:
        try:
            while connection.waiting:
                count = connection.socket.send(connection.waiting)
                del connection.waiting[:count]
                self._multiplexer.acknowledge(connection.stream, count)
            if connection.ended:
                connection.socket.shutdown(socket.SHUT_WR)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._give_up(connection, error.strerror or "connection lost")
            return
        self._drop_if_over(connection)

    def _give_up(self, connection: _Connection, reason: str) -> None:
        self._multiplexer.abort(connection.stream, reason)
        self._drop(connection)

    def _drop_if_over(self, connection: _Connection) -> None:
        if connection.finished and connection.ended and not connection.waiting:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if self._connections.pop(connection.stream, None) is None:
            return
        if connection.interest:
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _write_port(self) -> None:
        while data := self._multiplexer.output():
            count = os.write(self._port, data)
            self._multiplexer.written(count)

    def _settle(self) -> None:
        """Watch what can go on and nothing else: what is ready and not served would keep the loop spinning."""
        for stream, call in self._calls.items():
            if call.unsent:
                call.unsent = call.unsent[self._multiplexer.send(stream, call.unsent) :]
        for connection in tuple(self._connections.values()):
            wanted = selectors.EVENT_WRITE if connection.waiting else 0
            if not connection.finished and self._multiplexer.writable(connection.stream):
                wanted |= selectors.EVENT_READ
            self._watch_socket(connection, wanted)
        self._watch_port()

    def _watch_socket(self, connection: _Connection, wanted: int) -> None:
        if wanted == connection.interest:
            return
        if wanted == 0:
            self._selector.unregister(connection.socket)
        elif connection.interest == 0:
            self._selector.register(connection.socket, wanted, lambda ready: self._serve_socket(connection, ready))
        else:
            self._selector.modify(connection.socket, wanted, lambda ready: self._serve_socket(connection, ready))
        connection.interest = wanted

    def _watch_port(self) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._multiplexer.pending else 0)
        if wanted == self._port_interest:
            return
        if self._port_interest == 0:
            self._selector.register(self._port, wanted, self._serve_port)
        else:
            self._selector.modify(self._port, wanted, self._serve_port)
        self._port_interest = wanted
