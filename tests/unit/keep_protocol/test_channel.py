"""The framing of many streams over one port: order, ends, back-pressure, and peers that break it."""

from __future__ import annotations

import struct
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keep_protocol.channel import (
    MAX_PAYLOAD,
    MAX_STREAMS,
    OUTPUT_HARD_LIMIT,
    OUTPUT_SOFT_LIMIT,
    WINDOW,
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

HEADER = struct.Struct("!BxHI")
HELLO, OPEN, DATA, CREDIT, END, RESET = range(1, 7)


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload), stream) + payload


def drain(source: Multiplexer, target: Multiplexer, piece: int = 1 << 20) -> list[Event]:
    """Move all bytes that wait at one end to the other, in pieces; the events there."""
    events: list[Event] = []
    while data := source.output(piece):
        source.written(len(data))
        events += target.receive(data)
    return events


@pytest.fixture
def ends() -> tuple[Multiplexer, Multiplexer]:
    """A host's and a guest's end that have greeted each other."""
    host, guest = Multiplexer(Role.HOST), Multiplexer(Role.GUEST)
    assert drain(host, guest) == drain(guest, host) == []
    return host, guest


def test_both_ends_open_streams_whose_numbers_never_meet(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    assert (host.open("keep"), guest.open("egress"), host.open("keep")) == (1, 2, 3)
    assert drain(host, guest) == [Opened(1, "keep"), Opened(3, "keep")]
    assert drain(guest, host) == [Opened(2, "egress")]


def test_a_stream_ends_in_each_direction_by_itself(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    stream = host.open("keep")
    host.send(stream, b"request")
    host.end(stream)
    assert drain(host, guest) == [Opened(1, "keep"), Received(1, memoryview(b"request")), Ended(1)]
    assert guest.send(stream, b"answer") == 6
    guest.end(stream)
    assert drain(guest, host) == [Received(1, memoryview(b"answer")), Ended(1)]
    assert not host.streams
    assert not guest.streams
    with pytest.raises(StreamClosedError):
        host.send(stream, b"more")


def test_a_sender_stops_when_the_receiver_does_not_acknowledge(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    stream = host.open("keep")
    sent = 0
    while count := host.send(stream, bytes(MAX_PAYLOAD)):
        sent += count
        drain(host, guest)
    assert sent == WINDOW
    guest.acknowledge(stream, WINDOW)
    assert drain(guest, host) == [Credited(stream)]
    assert host.writable(stream) == OUTPUT_SOFT_LIMIT


def test_one_stream_that_stalls_does_not_stop_another(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    stalled, lively = host.open("keep"), host.open("keep")
    while host.send(stalled, bytes(MAX_PAYLOAD)):
        drain(host, guest)
    assert host.send(lively, b"still here") == 10
    assert drain(host, guest) == [Received(lively, memoryview(b"still here"))]


def test_a_port_that_takes_nothing_stops_senders_before_it_fills_memory(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, _ = ends
    streams = [host.open("keep") for _ in range(8)]
    for stream in streams * 16:
        host.send(stream, bytes(MAX_PAYLOAD))
    assert host.pending < OUTPUT_SOFT_LIMIT + 2 * MAX_PAYLOAD


def test_a_peer_that_only_asks_and_never_reads_is_given_up() -> None:
    guest = Multiplexer(Role.GUEST)
    guest.receive(Multiplexer(Role.HOST).output())
    asking = b"".join(frame(OPEN, stream, b"keep") for stream in range(1, OUTPUT_HARD_LIMIT // 4, 2))
    with pytest.raises(ChannelError, match="reads none"):
        guest.receive(asking)


def test_what_was_sent_before_the_peer_knew_of_an_abort_is_dropped(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    stream = host.open("keep")
    drain(host, guest)
    guest.abort(stream, "no room")
    host.send(stream, b"on its way")
    assert drain(host, guest) == []
    assert drain(guest, host) == [Aborted(stream, "no room")]
    with pytest.raises(StreamClosedError):
        host.send(stream, b"more")


def test_more_streams_than_allowed_are_refused_and_the_channel_goes_on(ends: tuple[Multiplexer, Multiplexer]) -> None:
    host, guest = ends
    for _ in range(MAX_STREAMS):
        host.open("keep")
    drain(host, guest)
    with pytest.raises(ChannelError, match="open already"):
        host.open("keep")
    assert guest.receive(frame(OPEN, 2 * MAX_STREAMS + 1, b"keep")) == []
    assert len(guest.streams) == MAX_STREAMS


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (frame(HELLO, 0, b"wasmkeep-channel\x00\x01"), "second greeting"),
        (frame(9, 1), "no frame of type 9"),
        (frame(0, 1), "no frame of type 0"),
        (frame(DATA, 1, b"x"), "nobody has opened"),
        (frame(OPEN, 3, b"keep"), "expected 1"),
        (frame(OPEN, 2, b"keep"), "expected 1"),
        (frame(OPEN, 1, b"\xff"), "not UTF-8"),
        (frame(OPEN, 1, bytes(256)), "at most 255 bytes"),
        (HEADER.pack(DATA, MAX_PAYLOAD + 1, 1), "at most 32768 bytes"),
        (frame(OPEN, 1) + frame(DATA, 1), "without any"),
        (frame(OPEN, 1) + frame(END, 1) + frame(DATA, 1, b"x"), "after its end"),
        (frame(OPEN, 1) + frame(END, 1) + frame(END, 1), "ends twice"),
        (frame(OPEN, 1) + frame(CREDIT, 1, bytes(3)), "4 bytes"),
        (frame(OPEN, 1) + frame(CREDIT, 1, b"\x00\x00\x00\x01"), "more credit"),
        (frame(OPEN, 1) + 9 * frame(DATA, 1, bytes(MAX_PAYLOAD)), "window"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_named(
    ends: tuple[Multiplexer, Multiplexer], garbage: bytes, message: str
) -> None:
    _, guest = ends
    with pytest.raises(ChannelError, match=message):
        guest.receive(garbage)


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\n", frame(OPEN, 1, b"keep"), frame(HELLO, 0, b"wasmkeep"), bytes(8)]
)
def test_a_channel_that_does_not_begin_with_a_greeting_is_refused(start: bytes) -> None:
    with pytest.raises(ChannelError, match="begin with a greeting"):
        Multiplexer(Role.GUEST).receive(start)


def test_another_version_is_refused() -> None:
    with pytest.raises(ChannelError, match="greeting is"):
        Multiplexer(Role.GUEST).receive(frame(HELLO, 0, b"wasmkeep-channel\x00\x02"))


@given(st.binary(max_size=400))
def test_garbage_raises_nothing_but_a_channel_error(data: bytes) -> None:
    guest = Multiplexer(Role.GUEST)
    guest.receive(Multiplexer(Role.HOST).output())
    try:
        guest.receive(data)
    except ChannelError:
        return
    assert len(guest.streams) <= len(data)


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 3), st.sampled_from(["open", "send", "end", "abort"]), st.binary(max_size=80)
        ),
        max_size=60,
    ),
    st.integers(1, 40),
)
def test_whatever_is_sent_arrives_in_order_however_the_port_tears_it(
    steps: list[tuple[bool, int, str, bytes]], piece: int
) -> None:
    ends = (Multiplexer(Role.HOST), Multiplexer(Role.GUEST))
    sent: dict[tuple[int, int], bytes] = defaultdict(bytes)
    got: dict[tuple[int, int], bytes] = defaultdict(bytes)
    aborted: set[int] = set()

    def deliver() -> None:
        for index, source in enumerate(ends):
            target = ends[1 - index]
            for event in drain(source, target, piece):
                if isinstance(event, Received):
                    got[index, event.stream] += event.data
                    target.acknowledge(event.stream, len(event.data))
                elif isinstance(event, Aborted):
                    aborted.add(event.stream)

    for from_guest, which, action, data in steps:
        end = ends[int(from_guest)]
        open_streams = sorted(end.streams)
        if action == "open":
            end.open("keep")
        elif not open_streams:
            continue
        else:
            stream = open_streams[which % len(open_streams)]
            if action == "abort":
                end.abort(stream, "test")
                aborted.add(stream)
            elif end.writable(stream):
                if action == "send":
                    sent[int(from_guest), stream] += data[: end.send(stream, data)]
                else:
                    end.end(stream)
        if which == 0:
            deliver()
    deliver()
    deliver()
    for key, data in sent.items():
        if key[1] in aborted:
            assert data.startswith(got[key])
        else:
            assert got[key] == data
