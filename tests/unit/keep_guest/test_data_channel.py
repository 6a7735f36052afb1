"""The guest's end of the data channel, over real sockets: connections, back-pressure, and hosts that misbehave."""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from keep_guest.data_channel import DataChannel
from keep_protocol.channel import (
    KEEP_SERVICE,
    MAX_PAYLOAD,
    MAX_STREAMS,
    WINDOW,
    Aborted,
    Ended,
    Event,
    Multiplexer,
    Received,
    Role,
)


@dataclass
class Channel:
    """A guest's end, the host's end of its port, and the app-loader's ends of its connections."""

    selector: selectors.BaseSelector
    port: socket.socket
    guest: DataChannel
    host: Multiplexer = field(default_factory=lambda: Multiplexer(Role.HOST))
    inner: list[socket.socket] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refusing: bool = False

    def turn(self) -> None:
        """Let everything that can move do so."""
        while self._push() | self._serve() | self._pull():
            pass

    def received(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, Received))

    def _push(self) -> bool:
        data = self.host.output()
        if not data:
            return False
        try:
            self.host.written(self.port.send(data))
        except BlockingIOError:
            return False
        return True

    def _serve(self) -> bool:
        ready = self.selector.select(0)
        for key, events in ready:
            serve: Callable[[int], object] = key.data
            serve(events)
        return bool(ready)

    def _pull(self) -> bool:
        try:
            data = self.port.recv(65536)
        except BlockingIOError:
            return False
        self.events += self.host.receive(data)
        return bool(data)


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    inner: list[socket.socket] = []

    def connect(service: str) -> socket.socket | None:
        if service != KEEP_SERVICE:
            return None
        if made.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        inner.append(far)
        return near

    with selectors.DefaultSelector() as selector:
        guest = DataChannel(selector, theirs.fileno(), connect)
        made = Channel(selector, ours, guest, inner=inner)
        made.turn()
        yield made
        for each in (ours, theirs, *inner):
            each.close()
        # Closes what the guest still holds.
        guest._begin_anew(watch=False)


def test_a_stream_is_a_connection_in_both_directions(channel: Channel) -> None:
    stream = channel.host.open(KEEP_SERVICE)
    channel.host.send(stream, b"request")
    channel.turn()
    assert channel.inner[0].recv(100) == b"request"
    channel.inner[0].sendall(b"answer")
    channel.turn()
    assert channel.received() == b"answer"
    channel.host.end(stream)
    channel.turn()
    assert channel.inner[0].recv(100) == b""
    channel.inner[0].close()
    channel.turn()
    assert channel.events[-1] == Ended(stream)
    assert not channel.host.streams


def test_many_streams_do_not_mix(channel: Channel) -> None:
    streams = [channel.host.open(KEEP_SERVICE) for _ in range(20)]
    for stream in streams:
        channel.host.send(stream, b"%d" % stream)
    channel.turn()
    for stream, inner in zip(streams, channel.inner, strict=True):
        assert inner.recv(100) == b"%d" % stream
        inner.sendall(b"to %d" % stream)
    channel.turn()
    answers = {event.stream: event.data for event in channel.events if isinstance(event, Received)}
    assert answers == {stream: b"to %d" % stream for stream in streams}


def test_an_app_loader_that_reads_nothing_stops_the_host_and_nobody_else(channel: Channel) -> None:
    stalled, lively = channel.host.open(KEEP_SERVICE), channel.host.open(KEEP_SERVICE)
    sent = 0
    while count := channel.host.send(stalled, bytes(65536)):
        sent += count
        channel.turn()
    assert WINDOW <= sent <= WINDOW + 2 * 1024 * 1024
    channel.host.send(lively, b"hello")
    channel.turn()
    assert channel.inner[1].recv(100) == b"hello"
    taken = 0
    while taken < sent:
        taken += len(channel.inner[0].recv(1 << 20))
        channel.turn()
    assert channel.host.writable(stalled) > 0


def test_an_app_loader_that_reads_late_gets_every_byte_in_order(channel: Channel) -> None:
    # Several times what sockets and the window hold, so that it is passed on at once, kept, and passed on later.
    content = random.Random(1).randbytes(3 * 1024 * 1024)
    stream = channel.host.open(KEEP_SERVICE)
    sent, taken, stalled = 0, bytearray(), 0
    while len(taken) < len(content):
        count = channel.host.send(stream, content[sent : sent + 100_000]) if sent < len(content) else 0
        sent += count
        channel.turn()
        stalled = 0 if count else stalled + 1
        if not count:
            taken += channel.inner[0].recv(70_000)
        assert stalled < 1000
    assert taken == content


def test_what_the_port_tears_into_single_bytes_arrives_whole(channel: Channel) -> None:
    stream = channel.host.open(KEEP_SERVICE)
    channel.host.send(stream, b"request")
    channel.host.end(stream)
    while data := channel.host.output(1):
        channel.host.written(channel.port.send(data))
        channel._serve()
    assert channel.inner[0].recv(100) == b"request"
    assert channel.inner[0].recv(100) == b""


def test_a_host_that_goes_within_a_frame_may_begin_anew(channel: Channel) -> None:
    stream = channel.host.open(KEEP_SERVICE)
    channel.turn()
    channel.host.send(stream, b"never whole")
    channel.port.send(channel.host.output(12))
    channel._serve()
    assert channel.inner[0].recv(100) == b"neve"
    # virtio-serial has no other way to say that the host is gone than an empty read; a socket has none to come back.
    channel.guest._begin_anew(watch=True)
    assert channel.inner[0].recv(100) == b""
    channel.host = Multiplexer(Role.HOST)
    channel.host.send(channel.host.open(KEEP_SERVICE), b"again")
    channel.turn()
    assert channel.inner[1].recv(100) == b"again"


def test_a_host_that_opens_too_many_streams_is_refused_one_by_one(channel: Channel) -> None:
    for _ in range(MAX_STREAMS):
        channel.host.open(KEEP_SERVICE)
    channel.turn()
    # A host of another make would count otherwise.
    channel.host._streams.clear()
    excess = channel.host.open(KEEP_SERVICE)
    channel.turn()
    assert channel.events == [Aborted(excess, f"{MAX_STREAMS} streams are open")]
    assert len(channel.inner) == MAX_STREAMS


def test_a_host_that_takes_nothing_stops_the_app_loader(channel: Channel) -> None:
    channel.host.open(KEEP_SERVICE)
    channel.turn()
    sent = 0
    try:
        while True:
            sent += channel.inner[0].send(bytes(65536))
            channel.turn()
    except BlockingIOError:
        pass
    # Nothing was acknowledged: the window, and what the socket itself holds.
    assert len(channel.received()) == WINDOW
    assert channel.selector.select(0) == []
    assert sent > WINDOW


def test_an_unknown_service_is_refused_by_name(channel: Channel) -> None:
    stream = channel.host.open("shell")
    channel.turn()
    assert channel.events == [Aborted(stream, "there is no service 'shell'")]
    assert channel.inner == []


def test_a_connection_that_the_app_loader_refuses_is_told(channel: Channel) -> None:
    channel.refusing = True
    stream = channel.host.open(KEEP_SERVICE)
    channel.turn()
    assert channel.events == [Aborted(stream, "Connection refused")]


def test_a_stream_that_the_host_gives_up_closes_its_connection(channel: Channel) -> None:
    stream = channel.host.open(KEEP_SERVICE)
    channel.turn()
    channel.host.abort(stream, "client left")
    channel.turn()
    assert channel.inner[0].recv(100) == b""


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 100, b"\x03\x00\x00\x01\x00\x00\x00\x09x", b"GET / HTTP/1.1\r\nHost: keep\r\n\r\n"],
    ids=["noise", "a stream that nobody opened", "HTTP"],
)
def test_a_host_that_breaks_the_framing_ends_every_connection_and_may_begin_anew(
    channel: Channel, garbage: bytes
) -> None:
    channel.host.open(KEEP_SERVICE)
    channel.turn()
    channel.port.send(garbage)
    channel._serve()
    assert channel.inner[0].recv(100) == b""
    assert channel.guest.broken
    channel.guest.retry()
    # A host that begins anew greets anew, and is greeted.
    channel.host = Multiplexer(Role.HOST)
    stream = channel.host.open(KEEP_SERVICE)
    channel.host.send(stream, b"again")
    channel.turn()
    assert channel.inner[1].recv(100) == b"again"


def test_a_host_that_does_not_wait_for_credit_is_given_up_before_it_fills_memory(channel: Channel) -> None:
    channel.host.open(KEEP_SERVICE)
    channel.turn()
    frame = b"\x03\x00\x80\x00\x00\x00\x00\x01" + bytes(MAX_PAYLOAD)
    left, sent = frame, 0
    while not channel.guest.broken:
        count = channel.port.send(left)
        left, sent = left[count:] or frame, sent + count
        channel._serve()
    # The window, and what the app-loader's socket holds.
    assert sent < 2 * WINDOW + 2 * 1024 * 1024
    taken = 0
    while data := channel.inner[0].recv(1 << 20):
        taken += len(data)
    assert taken < sent


def test_a_host_that_goes_ends_every_connection_without_spinning(channel: Channel) -> None:
    channel.host.open(KEEP_SERVICE)
    channel.turn()
    channel.port.shutdown(socket.SHUT_WR)
    channel._serve()
    assert channel.inner[0].recv(100) == b""
    assert channel.guest.broken
    assert channel.selector.select(0) == []
