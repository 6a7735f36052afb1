"""QEMU's machine protocol (QMP): learns why a machine ends, and can end it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import Any, Final

import msgspec

from keep_loader.machine.lines import LineSocket
from keep_protocol.guest_control import GuestControlError

_MAX_LINE: Final = 256 * 1024

_logger = logging.getLogger(__name__)


class Monitor:
    """QEMU's end of the life of a machine, as its events tell it."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = LineSocket(connection, _MAX_LINE)
        self.shutdown_reason: str | None = None
        """`guest-shutdown`, `guest-reset`, `guest-panic`, `host-signal`, …; QMP's ShutdownCause."""
        self.panicked = False
        self.disk_refused = False
        """Whether the host has once refused to store what the guest wrote on its disk."""

    async def run(self) -> None:
        """Follow QEMU until it hangs up."""
        # An answer to a command is of no interest: what it was to bring about is told by an event.
        with contextlib.suppress(OSError, GuestControlError):
            await self._lines.send(b'{"execute":"qmp_capabilities"}\n')
            async for line in self._lines.lines():
                self._take(line)

    async def quit(self) -> None:
        """Ask QEMU to end the machine at once."""
        with contextlib.suppress(OSError):
            await self._lines.send(b'{"execute":"quit"}\n')

    def close(self) -> None:
        """Hang up."""
        self._lines.close()

    def _take(self, line: bytes) -> None:
        try:
            message: Any = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return
        if not isinstance(message, dict):
            return
        match message.get("event"):
            case "SHUTDOWN":
                data = message.get("data")
                self.shutdown_reason = str(data.get("reason")) if isinstance(data, dict) else None
            case "BLOCK_IO_ERROR" if not self.disk_refused:
                self.disk_refused = True
                data = message.get("data")
                # `nospace` is there only where QEMU would stop the machine; the words are those of strerror(3).
                full = isinstance(data, dict) and data.get("reason") == os.strerror(errno.ENOSPC)
                why = "the host's disk is full" if full else "the host's disk has an error"
                _logger.error("%s: the keep can store nothing until it is restarted", why)
            case "GUEST_PANICKED" | "GUEST_CRASHLOADED":
                self.panicked = True
