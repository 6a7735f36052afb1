"""`poll_oneoff` when one of its descriptors is ours: then all of its subscriptions are waited for here."""

from __future__ import annotations

import errno
import select
import struct
import time
from typing import Final

from app_loader.preview1 import errnos
from app_loader.preview1.descriptor_table import DescriptorTable
from app_loader.preview1.descriptors import FILETYPE_SOCKET_STREAM, Descriptor
from app_loader.preview1.guest_memory import part, put

MAX_SUBSCRIPTIONS: Final = 4096

_CLOCK: Final = 0
_READ: Final = 1
_WRITE: Final = 2
_ABSOLUTE: Final = 1 << 0
_HANGUP: Final = 1 << 0
_REALTIME: Final = 0
_MONOTONIC: Final = 1

_SUBSCRIPTION: Final = struct.Struct("<QB7x32s")
_CLOCK_SUBSCRIPTION: Final = struct.Struct("<I4xQQH6x")
_EVENT: Final = struct.Struct("<QHBxxxxxQHxxxxxx")

_NANOSECONDS: Final = 1_000_000
"""Of a millisecond, which is what poll(2) counts in."""
_LONGEST_WAIT: Final = 2**31 - 1
_FAILED: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Waiting:
    """The subscriptions of one call, and which of them have come true."""

    def __init__(self, table: DescriptorTable) -> None:
        self._table = table
        self._clocks: list[tuple[int, int]] = []
        """Userdata and the time of `time.monotonic_ns` at which it comes true."""
        self._streams: list[tuple[int, int, Descriptor | None, int]] = []
        """Userdata, kind, ours, the host's descriptor."""
        self._at_once: list[bytes] = []
        self._wanted: dict[int, int] = {}

    def add(self, userdata: int, kind: int, body: bytes) -> None:
        if kind == _CLOCK:
            self._add_clock(userdata, body)
        elif kind in (_READ, _WRITE):
            self._add_stream(userdata, kind, int.from_bytes(body[:4], "little"))
        else:
            raise OSError(errno.EINVAL, "no such kind of subscription")

    def _add_clock(self, userdata: int, body: bytes) -> None:
        clock, timeout, _, flags = _CLOCK_SUBSCRIPTION.unpack(body)
        if clock not in (_REALTIME, _MONOTONIC):
            self._at_once.append(_EVENT.pack(userdata, errnos.INVAL, _CLOCK, 0, 0))
            return
        if flags & _ABSOLUTE:
            # The guest's monotonic clock begins near 0, so it is asked for.
            timeout -= time.time_ns() if clock == _REALTIME else self._table.hold.now()
        self._clocks.append((userdata, time.monotonic_ns() + max(0, timeout)))

    def _add_stream(self, userdata: int, kind: int, number: int) -> None:
        ours = self._table.get(number)
        # Standard output and standard error are the process's own; other descriptors of WASI's are files, always ready.
        host = ours.host if ours is not None else number if number in (1, 2) else -1
        if ours is None and self._table.hold.valid(number) < 0:
            self._at_once.append(_EVENT.pack(userdata, errnos.BADF, kind, 0, 0))
        elif host < 0:
            self._at_once.append(_EVENT.pack(userdata, errnos.SUCCESS, kind, 1 if ours is None else ours.unread(), 0))
        else:
            self._streams.append((userdata, kind, ours, host))
            self._wanted[host] = self._wanted.get(host, 0) | (select.POLLIN if kind == _READ else select.POLLOUT)

    def wait(self) -> list[bytes]:
        """The events, at least one."""
        poll = select.poll()
        for host, events in self._wanted.items():
            poll.register(host, events)
        while True:
            ready = dict(poll.poll(self._patience()))
            now = time.monotonic_ns()
            happened = [
                *self._at_once,
                *(_EVENT.pack(userdata, 0, _CLOCK, 0, 0) for userdata, until in self._clocks if until <= now),
                *(
                    _stream_event(userdata, kind, ours, state)
                    for userdata, kind, ours, host in self._streams
                    if (state := ready.get(host, 0)) & ((select.POLLIN if kind == _READ else select.POLLOUT) | _FAILED)
                ),
            ]
            if happened:
                return happened

    def _patience(self) -> int | None:
        """Milliseconds, rounded up: who is woken too early would spin."""
        if self._at_once:
            return 0
        if not self._clocks:
            return None
        left = min(until for _, until in self._clocks) - time.monotonic_ns()
        return min(max(0, -(-left // _NANOSECONDS)), _LONGEST_WAIT)


def poll_oneoff(
    table: DescriptorTable, view: memoryview, subscriptions: int, events: int, count: int, result: int
) -> None:
    """Wait for one of the subscriptions at least. Raises `OSError` and `OutsideMemoryError`."""
    if not 1 <= count <= MAX_SUBSCRIPTIONS:
        raise OSError(errno.EINVAL, "too many subscriptions, or none")
    wanted = bytes(part(view, subscriptions, _SUBSCRIPTION.size * count))
    room = part(view, events, _EVENT.size * count)
    part(view, result, 4)
    waiting = _Waiting(table)
    for userdata, kind, body in _SUBSCRIPTION.iter_unpack(wanted):
        waiting.add(userdata, kind, body)
    happened = b"".join(waiting.wait())
    room[: len(happened)] = happened
    put(view, result, "<I", len(happened) // _EVENT.size)


def _stream_event(userdata: int, kind: int, ours: Descriptor | None, state: int) -> bytes:
    if state & select.POLLNVAL:
        return _EVENT.pack(userdata, errnos.BADF, kind, 0, 0)
    count = 1
    hangup = bool(state & select.POLLHUP)
    if kind == _READ and ours is not None:
        count = ours.unread()
        hangup = hangup or (count == 0 and ours.filetype == FILETYPE_SOCKET_STREAM)
    return _EVENT.pack(userdata, 0, kind, count, _HANGUP if hangup else 0)
