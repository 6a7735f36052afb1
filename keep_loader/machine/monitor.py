"""QEMU's machine protocol (QMP): tells it what to do, learns why a machine ends, and can end it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from typing import Any, Final

import msgspec

from keep_loader.errors import MachineError
from keep_loader.machine.lines import LineSocket
from keep_protocol.guest_control import GuestControlError

_MAX_LINE: Final = 256 * 1024
_MAX_REFUSAL: Final = 300

_logger = logging.getLogger(__name__)


class Monitor:
    """QEMU's end of the life of a machine, as its events tell it."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = LineSocket(connection, _MAX_LINE)
        self._connection = connection
        self._negotiated = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._hung_up = False
        self.shutdown_reason: str | None = None
        """`guest-shutdown`, `guest-reset`, `guest-panic`, `host-signal`, …; QMP's ShutdownCause."""
        self.panicked = False
        self.disk_refused = False
        """Whether the host has once refused to store what the guest wrote on its disk."""

    async def run(self) -> None:
        """Follow QEMU until it hangs up."""
        try:
            with contextlib.suppress(OSError, GuestControlError):
                await self._lines.send(b'{"execute":"qmp_capabilities"}\n')
                self._negotiated.set()
                async for line in self._lines.lines():
                    self._take(line)
        finally:
            self._hung_up = True
            self._negotiated.set()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(MachineError("qemu-died: QEMU hung up when it was asked something"))

    async def execute(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer to a command, while `run` runs. Raises `MachineError` when it refuses, or is gone."""
        await self._negotiated.wait()
        number = len(self._asked)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        message = {"execute": command, "arguments": arguments, "id": number}
        try:
            if self._hung_up:
                raise BrokenPipeError
            await self._lines.send(msgspec.json.encode(message) + b"\n")
        except OSError:
            answer.cancel()
            raise MachineError(f"qemu-died: QEMU was gone when it was to {command}") from None
        return await answer

    async def give(self, name: str, descriptor: int) -> None:
        """Let QEMU have a copy of a descriptor under this name. Raises `MachineError`."""
        await self._negotiated.wait()
        try:
            # A message of one byte, which JSON ignores: the descriptor is there before the command that takes it.
            socket.send_fds(self._connection, [b" "], [descriptor])
        except OSError:
            raise MachineError("qemu-died: QEMU was gone when it was to get a descriptor") from None
        await self.execute("getfd", fdname=name)

    async def quit(self) -> None:
        """Ask QEMU to end the machine at once."""
        # The answer is of no interest: what it brings about is told by an event.
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
        number = message.get("id")
        answer = self._asked.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            if isinstance(refusal := message.get("error"), dict):
                answer.set_exception(MachineError(f"qemu-refused: {str(refusal.get('desc'))[:_MAX_REFUSAL]}"))
            else:
                answer.set_result(message.get("return"))
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
