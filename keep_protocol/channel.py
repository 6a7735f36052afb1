"""The framing by which many byte streams share one byte stream between a host and the keep in its virtual machine.

It is used where the guest has no vsock: over one virtio-serial port. Pure protocol, no I/O. What the streams carry is
TLS, so a host that reads or changes frames learns and breaks no more than on a network.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

DATA_PORT: Final = "org.wasmkeep.data"
"""The virtio-serial port that carries these frames."""

KEEP_SERVICE: Final = "keep"
"""What a host opens for each client of the keep: its mutual TLS."""

NETWORK_SERVICE: Final = "network"
"""What a guest opens for each request to its keep's network broker; for a connection, its bytes follow the answer."""

PORT_SERVICE: Final = "port:"
"""What a host opens, with a number behind it, for each connection to a port on which the guest listens."""

NOBODY_LISTENS: Final = "nobody listens there"
"""The reason for which a guest gives up a stream to a port of its own."""

WINDOW: Final = 256 * 1024
"""Bytes that a sender may send on one stream before the receiver has acknowledged any."""
MAX_PAYLOAD: Final = 32 * 1024
"""Bytes of payload in one frame."""
MAX_LABEL: Final = 255
"""Bytes of a service's name, and of a reason, in UTF-8."""
MAX_STREAMS: Final = 256
"""Streams that may be open at a time, whoever opened them; more are refused one by one."""
OUTPUT_SOFT_LIMIT: Final = 128 * 1024
"""Bytes waiting to be written from which on `send` takes nothing."""
OUTPUT_HARD_LIMIT: Final = 1024 * 1024
"""Bytes waiting to be written that only a peer can cause which asks for answers and reads none."""

_MAGIC: Final = b"wasmkeep-channel\x00\x01"
"""The payload of the first frame of either side; its last two bytes are the version."""
_HEADER: Final = struct.Struct("!BxHI")
"""Type, length of the payload, stream."""
_CREDIT: Final = struct.Struct("!I")
_LAST_STREAM: Final = 0xFFFFFFFF


class Role(StrEnum):
    """An end of the channel. Streams opened by the host have odd numbers, those of the guest even ones."""

    HOST = "host"
    GUEST = "guest"


class FrameType(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    OPEN = 2
    DATA = 3
    CREDIT = 4
    END = 5
    RESET = 6


class ChannelError(Exception):
    """The peer broke the protocol, or its bytes are no frames: the channel is of no use any more."""


class StreamClosedError(Exception):
    """The stream is not open in this direction (any more)."""


@dataclass(frozen=True)
class Opened:
    """The peer opened a stream to the named service."""

    stream: int
    service: str


@dataclass(frozen=True)
class Received:
    """Bytes of a stream, a part of what was read; `Multiplexer.acknowledge` them when they are passed on."""

    stream: int
    data: memoryview


@dataclass(frozen=True)
class Credited:
    """The peer can take more bytes of a stream."""

    stream: int


@dataclass(frozen=True)
class Ended:
    """The peer sends no more bytes on a stream."""

    stream: int


@dataclass(frozen=True)
class Aborted:
    """The peer gave a stream up, in both directions."""

    stream: int
    reason: str


Event = Opened | Received | Credited | Ended | Aborted


@dataclass
class _Stream:
    credit: int = WINDOW
    """Bytes that may still be sent."""
    unacknowledged: int = 0
    """Bytes received that the owner of this end has not acknowledged."""
    unreported: int = 0
    """Bytes acknowledged that the peer has not been told of."""
    sending: bool = True
    receiving: bool = True


@dataclass
class _Frame:
    """A frame that is being received."""

    kind: int
    stream: int
    missing: int
    """Bytes of its payload that are still to come."""
    payload: bytearray = field(default_factory=bytearray)
    """What has come, but for data, which is passed on as it comes."""


@dataclass
class Multiplexer:
    """One end of a channel: bytes read from it become events, operations become bytes to write.

    Back-pressure in both directions: `send` takes no more than the peer gave credit for and the output has room for;
    credit comes back only for what was acknowledged. No operation blocks.
    """

    role: Role
    _streams: dict[int, _Stream] = field(default_factory=dict, init=False)
    _head: bytearray = field(default_factory=bytearray, init=False)
    """The beginning of a frame whose first bytes are not all there."""
    _frame: _Frame | None = field(default=None, init=False)
    _output: bytearray = field(default_factory=bytearray, init=False)
    _greeted: bool = field(default=False, init=False)
    _last_opened: int = field(init=False)
    _last_accepted: int = field(init=False)

    def __post_init__(self) -> None:
        first = _FIRST_STREAM[self.role]
        self._last_opened = first - 2
        self._last_accepted = _FIRST_STREAM[_PEER[self.role]] - 2
        self._emit(FrameType.HELLO, 0, _MAGIC)

    @property
    def streams(self) -> Mapping[int, object]:
        """The streams that are open in at least one direction, by number."""
        return MappingProxyType(self._streams)

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return len(self._output)

    def output(self, maximum: int = 64 * 1024) -> bytes:
        """The next bytes to write; they stay until `written` tells how many were."""
        with memoryview(self._output) as output:
            return bytes(output[:maximum])

    def written(self, count: int) -> None:
        """So many of the bytes that `output` gave are written."""
        del self._output[:count]

    def open(self, service: str) -> int:
        """Open a stream to a service of the peer; its number. Raises `ChannelError` when there are too many."""
        if len(self._streams) >= MAX_STREAMS:
            raise ChannelError(f"{MAX_STREAMS} streams are open already")
        if self._last_opened + 2 > _LAST_STREAM:
            raise ChannelError("the channel has no stream numbers left")
        self._last_opened += 2
        self._streams[self._last_opened] = _Stream()
        self._emit(FrameType.OPEN, self._last_opened, _label(service))
        return self._last_opened

    def writable(self, stream: int) -> int:
        """How many bytes `send` would take now; 0 also for a stream that takes no more."""
        state = self._streams.get(stream)
        if state is None or not state.sending:
            return 0
        return max(0, min(state.credit, OUTPUT_SOFT_LIMIT - len(self._output)))

    def send(self, stream: int, data: bytes | memoryview) -> int:
        """Send as many of the bytes as there is credit and room for; how many. Raises `StreamClosedError`."""
        state = self._streams.get(stream)
        if state is None or not state.sending:
            raise StreamClosedError(f"stream {stream} takes no more bytes")
        count = min(self.writable(stream), len(data))
        view = memoryview(data)
        for start in range(0, count, MAX_PAYLOAD):
            self._emit(FrameType.DATA, stream, view[start : min(start + MAX_PAYLOAD, count)])
        state.credit -= count
        return count

    def acknowledge(self, stream: int, count: int) -> None:
        """So many received bytes of a stream are passed on: the peer may send as many more."""
        state = self._streams.get(stream)
        if state is None:
            return
        if count > state.unacknowledged:
            raise ValueError(f"stream {stream} has {state.unacknowledged} unacknowledged bytes, not {count}")
        state.unacknowledged -= count
        state.unreported += count
        # Not for every read: nobody waits for the first three quarters of a window, and each frame costs a guest a call
        # of its machine.
        if state.receiving and state.unreported >= WINDOW // 4:
            self._emit(FrameType.CREDIT, stream, _CREDIT.pack(state.unreported))
            state.unreported = 0

    def end(self, stream: int) -> None:
        """Send no more bytes on a stream; the peer may go on. Raises `StreamClosedError`."""
        state = self._streams.get(stream)
        if state is None or not state.sending:
            raise StreamClosedError(f"stream {stream} has ended already")
        self._emit(FrameType.END, stream)
        state.sending = False
        self._forget_if_over(stream, state)

    def abort(self, stream: int, reason: str = "") -> None:
        """Give a stream up in both directions; nothing happens when it is over already."""
        if self._streams.pop(stream, None) is not None:
            self._emit(FrameType.RESET, stream, _label(reason))

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """What bytes read from the channel mean. Raises `ChannelError`; the channel must be given up then.

        Events of data have parts of `data` itself: what is to outlive its buffer must be copied.
        """
        events: list[Event] = []
        left = memoryview(data)
        while left:
            if self._frame is None:
                wanted = _HEADER.size - len(self._head)
                self._head += left[:wanted]
                left = left[wanted:]
                if len(self._head) < _HEADER.size:
                    break
                self._frame = self._begin(*_HEADER.unpack(self._head))
                self._head.clear()
            piece, left = left[: self._frame.missing], left[self._frame.missing :]
            if (event := self._continue(self._frame, piece)) is not None:
                events.append(event)
        return events

    def _begin(self, kind: int, length: int, stream: int) -> _Frame:
        """A frame of which only this is known: what cannot be right is refused before its payload is waited for."""
        if length > MAX_PAYLOAD:
            raise ChannelError(f"a frame has at most {MAX_PAYLOAD} bytes, not {length}")
        if not self._greeted and (kind != FrameType.HELLO or length != len(_MAGIC)):
            raise ChannelError("the channel does not begin with a greeting: something else uses the port")
        if kind not in _KINDS:
            raise ChannelError(f"there is no frame of type {kind}")
        if kind == FrameType.DATA:
            self._check_data(stream, length)
        return _Frame(kind, stream, length)

    def _continue(self, frame: _Frame, piece: memoryview) -> Event | None:
        frame.missing -= len(piece)
        if frame.missing == 0:
            self._frame = None
        if frame.kind == FrameType.DATA:
            return self._take_data(frame.stream, piece)
        frame.payload += piece
        return None if frame.missing else self._take(frame.kind, frame.stream, bytes(frame.payload))

    def _take(self, kind: int, stream: int, payload: bytes) -> Event | None:
        if kind == FrameType.HELLO:
            self._greet(payload)
            return None
        if kind == FrameType.OPEN:
            return self._accept(stream, payload)
        state = self._opened(kind, stream)
        if state is None:
            # It was sent before the peer knew that the stream is over.
            return None
        return _HANDLERS[FrameType(kind)](self, stream, state, payload)

    def _opened(self, kind: int, stream: int) -> _Stream | None:
        """The stream of a frame; None when it is over. Raises `ChannelError` when there never was one."""
        if not self._known(stream):
            raise ChannelError(f"a frame of type {FrameType(kind).name} for stream {stream}, which nobody has opened")
        return self._streams.get(stream)

    def _greet(self, payload: bytes) -> None:
        if self._greeted:
            raise ChannelError("a second greeting: the peer began anew")
        if payload != _MAGIC:
            raise ChannelError(f"the greeting is {_MAGIC!r} in this version, not {payload!r}")
        self._greeted = True

    def _known(self, stream: int) -> bool:
        if stream % 2 == _FIRST_STREAM[self.role] % 2:
            return 0 < stream <= self._last_opened
        return 0 < stream <= self._last_accepted

    def _accept(self, stream: int, payload: bytes) -> Event | None:
        if stream != self._last_accepted + 2:
            raise ChannelError(f"the peer opens stream {stream}, expected {self._last_accepted + 2}")
        self._last_accepted = stream
        service = _text(payload)
        if len(self._streams) >= MAX_STREAMS:
            self._emit(FrameType.RESET, stream, _label(f"{MAX_STREAMS} streams are open"))
            return None
        self._streams[stream] = _Stream()
        return Opened(stream, service)

    def _check_data(self, stream: int, length: int) -> None:
        state = self._opened(FrameType.DATA, stream)
        if state is None:
            return
        if not state.receiving:
            raise ChannelError(f"bytes on stream {stream} after its end")
        if not length:
            raise ChannelError(f"a frame of data without any on stream {stream}")
        if state.unacknowledged + state.unreported + length > WINDOW:
            raise ChannelError(f"more bytes on stream {stream} than its window of {WINDOW}")

    def _take_data(self, stream: int, piece: memoryview) -> Event | None:
        state = self._streams.get(stream)
        if state is None or not piece:
            # It was sent before the peer knew that the stream is over.
            return None
        state.unacknowledged += len(piece)
        return Received(stream, piece)

    def _take_credit(self, stream: int, state: _Stream, payload: bytes) -> Event | None:
        if len(payload) != _CREDIT.size:
            raise ChannelError(f"a frame of credit has {_CREDIT.size} bytes, not {len(payload)}")
        state.credit += _CREDIT.unpack(payload)[0]
        if state.credit > WINDOW:
            raise ChannelError(f"more credit on stream {stream} than was used")
        return Credited(stream)

    def _take_end(self, stream: int, state: _Stream, payload: bytes) -> Event | None:
        if payload or not state.receiving:
            raise ChannelError(f"stream {stream} ends twice, or with bytes")
        state.receiving = False
        self._forget_if_over(stream, state)
        return Ended(stream)

    def _take_reset(self, stream: int, _: _Stream, payload: bytes) -> Event | None:
        reason = _text(payload)
        del self._streams[stream]
        return Aborted(stream, reason)

    def _forget_if_over(self, stream: int, state: _Stream) -> None:
        if not state.sending and not state.receiving:
            del self._streams[stream]

    def _emit(self, kind: FrameType, stream: int, payload: bytes | memoryview = b"") -> None:
        if len(self._output) > OUTPUT_HARD_LIMIT:
            raise ChannelError("the peer asks for answers and reads none")
        self._output += _HEADER.pack(kind, len(payload), stream)
        self._output += payload


_FIRST_STREAM: Final = {Role.HOST: 1, Role.GUEST: 2}
_PEER: Final = {Role.HOST: Role.GUEST, Role.GUEST: Role.HOST}
_KINDS: Final = frozenset(FrameType)
_HANDLERS: Final = {
    FrameType.CREDIT: Multiplexer._take_credit,
    FrameType.END: Multiplexer._take_end,
    FrameType.RESET: Multiplexer._take_reset,
}


def _label(text: str) -> bytes:
    return text.encode()[:MAX_LABEL].decode(errors="ignore").encode()


def _text(payload: bytes) -> str:
    if len(payload) > MAX_LABEL:
        raise ChannelError(f"a name or reason has at most {MAX_LABEL} bytes, not {len(payload)}")
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ChannelError("a name or reason is not UTF-8") from None
