"""Server-sent events (WHATWG HTML, 9.2): bytes in, the manager's events out."""

from __future__ import annotations

import msgspec

from keep_client.errors import ProtocolError
from keep_protocol.manager_api import Event
from keep_protocol.strict_json import decode_strictly

MAX_PENDING = 1024 * 1024
"""Bytes of one event that has not ended."""

FIRST_DELAY = 0.25
LONGEST_DELAY = 5.0
"""Seconds between two attempts to connect again."""


class EventStreamParser:
    """Cuts a stream of bytes into events."""

    def __init__(self) -> None:
        self._pending = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises `ProtocolError`."""
        lines = (self._pending + chunk).replace(b"\r\n", b"\n").split(b"\n")
        self._pending = lines.pop()
        events: list[Event] = []
        for line in lines:
            if not line and self._data:
                events.append(_decode(b"\n".join(self._data)))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
        if len(self._pending) + sum(map(len, self._data)) > MAX_PENDING:
            raise ProtocolError(f"an event has more than {MAX_PENDING} bytes")
        return events


class Reconnection:
    """Decides whether and when to connect again: sooner at first, not any more after `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.succeeded()

    def succeeded(self) -> None:
        """Something came: start afresh."""
        self._delay = FIRST_DELAY
        self._waited = 0.0

    def next_delay(self) -> float | None:
        """Seconds to wait before the next attempt, or None to give up."""
        if self._waited >= self._patience:
            return None
        delay = self._delay
        self._waited += delay
        self._delay = min(2 * delay, LONGEST_DELAY)
        return delay


def _decode(data: bytes) -> Event:
    try:
        return decode_strictly(data, Event)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the manager sent an event that is none: {error}") from error
