"""The manager's end of its bus helper: asyncio calls with deadlines, signals as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import msgspec

from keep_manager.errors import SupervisorError, SupervisorUnavailableError
from keep_manager.supervisor.frames import BusAnswer, BusRequest, BusSignal, Operation, UnitProperties, encode_frame

_CALL_TIMEOUT = 6.0
_MAX_QUEUED_SIGNALS = 10_000


class BusError(SupervisorError):
    """systemd answered a call with an error; `name` is pystemd's class of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.name = text.partition(":")[0]


class BusClient:
    """One helper process and the calls under way in it."""

    def __init__(self, process: subprocess.Popen[bytes], writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[BusAnswer]] = {}
        self._signals: asyncio.Queue[UnitProperties | None] = asyncio.Queue(_MAX_QUEUED_SIGNALS)
        self._reader_task: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    @classmethod
    async def open(cls, address: Path) -> BusClient:
        """Start a helper for the systemd behind the private socket `address`. Raises `SupervisorUnavailableError`."""
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns after vfork and exec
                [sys.executable, "-I", "-m", __package__ + ".bus_helper", str(address), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        client = cls(process, writer)
        client._reader_task = asyncio.create_task(client._read(reader))
        try:
            await client.call("ping")
        except SupervisorError as error:
            await client.close()
            raise SupervisorUnavailableError(f"systemd at {address} does not answer: {error}") from error
        return client

    async def call(
        self,
        operation: Operation,
        unit: str = "",
        *,
        pid: int = 0,
        limits: dict[str, int] | None = None,
        timeout: float = _CALL_TIMEOUT,
    ) -> BusAnswer:
        """One call. Raises `BusError` when systemd refuses, `SupervisorUnavailableError` when it does not answer."""
        if self.gone.is_set():
            raise SupervisorUnavailableError("the connection to systemd is lost")
        number = next(self._numbers)
        request = BusRequest(number, operation, unit, pid, limits or {})
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(encode_frame(request))
                await self._writer.drain()
                answer: BusAnswer = await future
        except (TimeoutError, ConnectionError) as error:
            raise SupervisorUnavailableError(f"systemd did not answer `{operation}` within {timeout:g} s") from error
        finally:
            self._waiting.pop(number, None)
        if answer.error is not None:
            raise BusError(answer.error)
        return answer

    async def signals(self) -> AsyncIterator[UnitProperties]:
        """Changed units, until the connection is lost."""
        while (unit := await self._signals.get()) is not None:
            yield unit

    async def close(self) -> None:
        """End the helper; calls under way fail."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        if self._reader_task is not None:
            await self._reader_task
        # A helper inside a call to a hung systemd does not see that its channel is closed.
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4), "little")
                message = msgspec.msgpack.decode(await reader.readexactly(length), type=BusAnswer | BusSignal)
                self._dispatch(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(SupervisorUnavailableError("the connection to systemd is lost"))
            with contextlib.suppress(asyncio.QueueFull):
                self._signals.put_nowait(None)

    def _dispatch(self, message: BusAnswer | BusSignal) -> None:
        if isinstance(message, BusSignal):
            if self._signals.full():
                self._signals.get_nowait()
            self._signals.put_nowait(message.unit)
        elif (future := self._waiting.get(message.number)) is not None and not future.done():
            future.set_result(message)
