"""One machine as a whole while it runs: QEMU, its TPM, its console and the channels; how it ends, and why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from app_loader.oom import OomKills
from keep_loader.errors import CloneError, MachineError
from keep_loader.machine.children import Child, exit_text
from keep_loader.machine.console import Console
from keep_loader.machine.control import Control
from keep_loader.machine.dialling import KeepAddress, VsockAddress, dial
from keep_loader.machine.launch import Launched
from keep_loader.machine.migration import thaw
from keep_loader.machine.monitor import Monitor
from keep_loader.machine.multiplexed import MultiplexedChannel
from keep_loader.machine.network import MachineNetwork
from keep_loader.machine.streams import Stream
from keep_loader.machine.vsock_device import VsockDevice
from keep_protocol.channel import NETWORK_SERVICE, PORT_SERVICE
from keep_protocol.guest_control import VSOCK_PORT, Command, GuestConfiguration, Stop, Wake

STOP_PATIENCE: Final = 6.0
"""Seconds that the guest gets to end in order: twice the grace of the server inside, and its power-off."""
WAKE_PATIENCE: Final = 20.0
"""Seconds for a clone to take its own entropy and time. A start from the image takes less on most hosts."""
_KILL_PATIENCE: Final = 1.0
_ENTROPY: Final = 64
"""Bytes for a clone."""
_READ: Final = 16 * 1024
_CONSOLE_LINES: Final = 12
_PROGRAM_LINES: Final = 6


class RunningMachine:
    """Ends by `stop` or by itself; `close` leaves nothing of it. Must be made in a running event loop."""

    def __init__(
        self,
        launched: Launched,
        *,
        publish: Callable[[str], None],
        heartbeat: Callable[[], None],
        broker: Path | None = None,
    ) -> None:
        """`publish` gets the keep's certificate (PEM) and every renewed one, `heartbeat` every sign of life.

        `broker` is the socket of the network broker of a keep that has one.
        """
        self._qemu = launched.qemu
        self._tpm = launched.tpm
        self._device = launched.channel.child if isinstance(launched.channel, VsockDevice) else None
        self._console = Console()
        self._monitor = Monitor(launched.monitor)
        self._control = Control(launched.control, publish=publish, heartbeat=heartbeat)
        self._oom = OomKills()
        self._stopping = False
        self._closing = contextlib.ExitStack()
        if launched.disk is not None:
            self._closing.callback(os.close, launched.disk)
        for part in (launched.console, self._monitor, self._control):
            self._closing.callback(part.close)
        self._watching = asyncio.create_task(self._monitor.run())
        self._listening = asyncio.create_task(listen(launched.console, self._console))
        self._carrying: asyncio.Task[None] | None = None
        self._multiplexed: MultiplexedChannel | None = None
        self._ports: MachineNetwork | None = None
        self.dial: Callable[[], Awaitable[Stream]] = self._reach(launched, broker)

    def _network(self, broker: Path) -> MachineNetwork:
        async def dial_port(port: int) -> Stream:
            assert self._multiplexed is not None
            return await self._multiplexed.dial(f"{PORT_SERVICE}{port}")

        self._ports = MachineNetwork(broker, dial_port)
        return self._ports

    def _reach(self, launched: Launched, broker: Path | None) -> Callable[[], Awaitable[Stream]]:
        """How the keep inside is dialled."""
        if isinstance(launched.channel, socket.socket):
            services = {} if broker is None else {NETWORK_SERVICE: self._network(broker).serve}
            multiplexed = MultiplexedChannel(launched.channel, services)
            self._multiplexed = multiplexed
            self._closing.callback(multiplexed.close)
            self._carrying = asyncio.create_task(multiplexed.run())
            return multiplexed.dial
        if isinstance(launched.channel, VsockDevice):
            self._closing.callback(launched.channel.close)
            address: KeepAddress = launched.channel.address
        else:
            address = VsockAddress(launched.channel.context, VSOCK_PORT)
        return lambda: dial(address)

    @property
    def pid(self) -> int:
        """QEMU's."""
        return self._qemu.pid

    async def wake(self, state: int, configuration: GuestConfiguration) -> None:
        """Let a clone go on from its template's state, and tell it with what to start: before `serve`.

        `state` is a descriptor from whose position QEMU reads. Raises `CloneError`.
        """
        try:
            async with asyncio.timeout(WAKE_PATIENCE):
                await thaw(self._monitor, state)
                entropy = b64encode(secrets.token_bytes(_ENTROPY)).decode()
                await self._control.wake(Wake(entropy=entropy, clock=time.time_ns(), configuration=configuration))
        except TimeoutError:
            raise CloneError(f"the clone was not awake within {WAKE_PATIENCE:.0f} s") from None
        except MachineError as error:
            raise CloneError(str(error)) from None

    async def serve(self, configuration: GuestConfiguration | None, ready: Callable[[], None]) -> None:
        """Tell the guest with what to start, unless it has been woken, and follow the machine to its end.

        Returns when the machine ended because it was told to. Raises `MachineError` with the reason else.
        """
        conversation = asyncio.create_task(self._converse(configuration, ready))
        ends = [asyncio.create_task(child.ended()) for child in self.programs()]
        talks = [task for task in (conversation, self._carrying) if task is not None]
        try:
            # A guest that hangs up says nothing by it: its machine is about to end. One that talks nonsense does.
            while not any(end.done() for end in ends):
                await asyncio.wait([*talks, *ends], return_when=asyncio.FIRST_COMPLETED)
                over = [talk for talk in talks if talk.done()]
                for talk in over:
                    talks.remove(talk)
                    if not self._stopping and (error := talk.exception()) is not None:
                        raise error
            # QEMU says why over its monitor, just before it ends.
            await asyncio.wait([self._watching], timeout=_KILL_PATIENCE)
        finally:
            for task in (conversation, *ends):
                task.cancel()
            await asyncio.gather(conversation, *ends, return_exceptions=True)
        if not self._stopping:
            raise MachineError(self._reason())

    async def command(self, command: Command) -> None:
        """Tell the guest to do something. Raises `OSError`."""
        await self._control.command(command)

    async def stop(self) -> None:
        """End the machine: by message, by QEMU's monitor, by signals. Returns when nothing of it runs."""
        self._stopping = True
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await self._control.command(Stop())
                await self._qemu.ended()
        if self._qemu.status is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_PATIENCE):
                    await self._monitor.quit()
                    await self._qemu.ended()
        await self._end_programs()

    async def close(self) -> None:
        """End whatever still runs, at once, and hang up."""
        self._stopping = True
        await self._end_programs()
        if self._ports is not None:
            await self._ports.close()
        tasks = [task for task in (self._watching, self._listening, self._carrying) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._closing.close()

    def last_words(self) -> list[str]:
        """What the console showed last, and what QEMU and the TPM said: for the log of a keep that failed."""
        words = [f"console: {line}" for line in self._console.last_lines(_CONSOLE_LINES)]
        for child in self.programs():
            words += [f"{child.name}: {line}" for line in child.said.last_lines(_PROGRAM_LINES)]
        return words

    def programs(self) -> tuple[Child, ...]:
        """QEMU first: what others serve it with ends after it."""
        return tuple(child for child in (self._qemu, self._tpm, self._device) if child is not None)

    async def _converse(self, configuration: GuestConfiguration | None, ready: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            if configuration is not None:
                await self._control.configure(configuration)
            await self._control.follow(ready)

    async def _end_programs(self) -> None:
        for child in self.programs():
            await child.end(_KILL_PATIENCE)

    def _reason(self) -> str:
        """Why the machine is gone, the most telling first."""
        if self._monitor.panicked or self._monitor.shutdown_reason == "guest-panic":
            return "guest-panic: the guest's kernel panicked"
        match self._monitor.shutdown_reason:
            case "guest-reset":
                # With panic=-1 a panic restarts the machine, and so does the end of the first process.
                return "guest-panic: the guest restarted, as its kernel does after a panic"
            case "guest-shutdown":
                return "guest-shutdown: the guest powered off without having been told to"
        status = self._qemu.status
        if status is None and self._tpm is not None and self._tpm.status is not None:
            return f"tpm-died: swtpm ended with {exit_text(self._tpm.status)}"
        if status is None and self._device is not None and self._device.status is not None:
            return f"channel-died: vhost-device-vsock ended with {exit_text(self._device.status)}"
        if status == -signal.SIGKILL and self._oom.claim():
            return "memory: the kernel killed QEMU at the memory limit of the keep's unit"
        return f"qemu-died: QEMU ended with {exit_text(status or 0)}"


async def listen(connection: socket.socket, console: Console) -> None:
    """Remember what a console shows, until it is closed."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while written := await loop.sock_recv(connection, _READ):
            console.feed(written)
