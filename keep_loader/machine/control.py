"""The host's end of the control port: tells the guest what to start with, and hears how it is doing.

The guest is the least trusted party: lines are bounded, decoded strictly, and one that makes no sense ends it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.lines import LineSocket
from keep_protocol.guest_control import (
    Alive,
    Awake,
    Command,
    Failed,
    GuestConfiguration,
    GuestControlError,
    Prepare,
    Prepared,
    Published,
    Ready,
    Stopped,
    Wake,
    decode_event,
    encode_line,
)
from keep_protocol.handover import MAX_KEEP_FILE

_MAX_EVENT: Final = MAX_KEEP_FILE
_MAX_CERTIFICATE: Final = MAX_KEEP_FILE // 2
_MAX_REASON: Final = 400

_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"


class Control:
    """One connection to the guest's control port."""

    def __init__(
        self, connection: socket.socket, *, publish: Callable[[str], None], heartbeat: Callable[[], None]
    ) -> None:
        """`publish` gets the guest's certificate (PEM), the first and every renewed one."""
        self._lines = LineSocket(connection, _MAX_EVENT)
        self._incoming = self._lines.lines()
        self._publish = publish
        self._heartbeat = heartbeat
        self._ready = False

    async def configure(self, configuration: GuestConfiguration) -> None:
        """The first line; waits until the guest takes it. Raises `OSError`."""
        await self._lines.send(encode_line(configuration))

    async def prepare(self) -> None:
        """Let a machine that has booted become a template; returns when it can be frozen. Raises `MachineError`."""
        await self._ask(Prepare(), Prepared)

    async def wake(self, wake: Wake) -> None:
        """Let a template's clone become a keep; returns when it has taken what is its own. Raises `MachineError`."""
        await self._ask(wake, Awake)

    async def command(self, command: Command) -> None:
        """Tell the guest to do something. Raises `OSError`."""
        await self._lines.send(encode_line(command))

    async def follow(self, on_ready: Callable[[], None]) -> None:
        """Hear the guest until it hangs up. Raises `MachineError` when it fails or makes no sense."""
        try:
            async for line in self._incoming:
                self._take(line, on_ready)
        except GuestControlError as error:
            raise MachineError(f"guest-confused: on its control port: {_printable(str(error))}") from None

    def close(self) -> None:
        """Hang up."""
        self._lines.close()

    async def _ask(self, message: Prepare | Wake, wanted: type[Prepared | Awake]) -> None:
        try:
            await self._lines.send(encode_line(message))
            event = decode_event(await anext(self._incoming))
        except (OSError, StopAsyncIteration):
            raise MachineError("guest-failed: it hung up instead of an answer") from None
        except GuestControlError as error:
            raise MachineError(f"guest-confused: on its control port: {_printable(str(error))}") from None
        if isinstance(event, Failed):
            raise MachineError(f"guest-failed: {_printable(event.reason)}")
        if not isinstance(event, wanted):
            raise MachineError(f"guest-confused: it said {type(event).__name__} where {wanted.__name__} was due")

    def _take(self, line: bytes, on_ready: Callable[[], None]) -> None:
        match decode_event(line):
            case Ready(certificate) if not self._ready:
                self._ready = True
                self._publish(_checked(certificate))
                on_ready()
            case Published(certificate) if self._ready:
                self._publish(_checked(certificate))
            case Ready() | Published():
                raise MachineError("guest-confused: it was ready twice, or renewed a certificate before it was")
            case Alive():
                if self._ready:
                    self._heartbeat()
            case Prepared() | Awake():
                raise MachineError("guest-confused: it said that it was a template, or a template's clone, by then")
            case Stopped():
                pass  # its machine is about to end, which is what counts
            case Failed(reason):
                raise MachineError(f"guest-failed: {_printable(reason)}")


def _checked(certificate: str) -> str:
    """What it says is for the manager to judge; here it must only be one that fits into a `keep.json`."""
    if len(certificate) > _MAX_CERTIFICATE or not certificate.startswith(_PEM_BEGIN):
        raise MachineError("guest-confused: it published something that is no certificate in PEM")
    return certificate


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:_MAX_REASON])
