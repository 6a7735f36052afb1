"""The guest's end of the control port: the host's configuration and commands in, events out."""

from __future__ import annotations

import os
import select
import time
from typing import Final

from keep_guest.errors import GuestError
from keep_protocol.guest_control import (
    Command,
    GuestEvent,
    LineReader,
    decode_command,
    encode_line,
)

_CHUNK: Final = 64 * 1024
_PAUSE: Final = 0.02
_MAX_WAITING: Final = 1024 * 1024
_LAST_WORDS_SECONDS: Final = 2.0


class Control:
    """Lines on the control port. Nothing here blocks but `await_line` and `flush`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader = LineReader()
        self._early: list[bytes] = []
        self._waiting = bytearray()

    def await_line(self, seconds: float | None = None) -> bytes:
        """A line of the host's, before there are commands.

        Raises `GuestError` when it does not come within so many seconds, or `GuestControlError`.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._early:
            if deadline is not None and time.monotonic() > deadline:
                raise GuestError(f"the host has sent no configuration within {seconds:.0f} seconds")
            self._early += self._reader.feed(self._read())
            if not self._early:
                # A port without its host is always readable, and gives nothing.
                time.sleep(_PAUSE)
        return self._early.pop(0)

    def commands(self) -> list[Command] | None:
        """What the host says now; None when it is not there. Raises `GuestControlError`."""
        lines, self._early = self._early, []
        try:
            data = os.read(self.port, _CHUNK)
        except (BlockingIOError, InterruptedError):
            data = None
        if data == b"":
            return None if not lines else [decode_command(line) for line in lines]
        return [decode_command(line) for line in (*lines, *self._reader.feed(data or b""))]

    def send(self, event: GuestEvent) -> None:
        """Say something to the host, as soon as it reads."""
        if len(self._waiting) < _MAX_WAITING:
            self._waiting += encode_line(event)
        self.write()

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._waiting)

    def write(self) -> None:
        """Write what waits, as far as the port takes it."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self.port, self._waiting)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the host is gone, and with it whoever would read
            self._waiting.clear()

    def flush(self) -> None:
        """Give the host a moment to read the last words."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._waiting and (rest := deadline - time.monotonic()) > 0:
            select.select([], [self.port], [], rest)
            self.write()

    def _read(self) -> bytes:
        try:
            return os.read(self.port, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
