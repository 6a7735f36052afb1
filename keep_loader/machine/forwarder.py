"""Carries the connections of a keep's public endpoint into its machine, byte for byte: TLS ends inside."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from keep_loader.machine.streams import SocketStream, Stream

MAX_CONNECTIONS: Final = 256
"""Connections at the same time; further ones wait to be accepted."""

_PAUSE: Final = 0.2
"""Seconds after an accept that failed for want of descriptors or memory."""

_logger = logging.getLogger(__name__)


class Forwarder:
    """Accepts at `listener` and dials the guest once for each connection."""

    def __init__(self, listener: socket.socket, dial: Callable[[], Awaitable[Stream]]) -> None:
        self._listener = listener
        self._dial = dial
        self._connections: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def run(self) -> None:
        """Accept until cancelled; connections that are open then go on."""
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                self._free.release()
                if error.errno in (errno.EBADF, errno.EINVAL):
                    raise
                _logger.warning("no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            except BaseException:
                self._free.release()
                raise
            task = asyncio.create_task(self._carry(connection))
            self._connections.add(task)
            task.add_done_callback(self._over)

    async def close(self) -> None:
        """Break all connections off."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._free.release()

    async def _carry(self, connection: socket.socket) -> None:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = SocketStream(connection)
        try:
            guest = await self._dial()
        except OSError as error:
            _logger.warning("the guest takes no connection: %s", str(error) or type(error).__name__)
            client.close()
            return
        try:
            await carry(client, guest)
        except OSError:
            pass  # either end broke it off, which is theirs to explain
        finally:
            client.close()
            guest.close()


async def carry(one: Stream, other: Stream) -> None:
    """Both directions until both have finished. Raises `OSError` as soon as either end breaks."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pour(one, other))
            group.create_task(_pour(other, one))
    except* OSError as errors:
        raise errors.exceptions[0] from None


async def _pour(source: Stream, target: Stream) -> None:
    while data := await source.read():
        await target.write(data)
    await target.finish()
