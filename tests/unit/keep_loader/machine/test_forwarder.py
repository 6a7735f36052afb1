"""Connections of the public endpoint, carried to a guest: byte for byte, both ways, many, and none for ever."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from keep_loader.machine import forwarder
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.streams import Stream
from tests.unit.keep_loader.machine.serial_guest import SerialGuest, connected, until


@asynccontextmanager
async def endpoint(*, echoes: bool = True) -> AsyncIterator[tuple[tuple[str, int], SerialGuest]]:
    """The address of an endpoint whose connections go to a guest."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with connected(echoes=echoes) as (channel, guest):
        forwarding = Forwarder(listener, channel.dial)
        running = asyncio.create_task(forwarding.run())
        try:
            yield listener.getsockname(), guest
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await forwarding.close()
            listener.close()


async def exchange(address: tuple[str, int], content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(content)
        writer.write_eof()
        return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


def test_what_a_client_sends_comes_to_the_guest_and_back() -> None:
    content = os.urandom(1_000_003)

    async def scenario() -> tuple[bytes, bytes]:
        async with endpoint() as (address, guest):
            answer = await exchange(address, content)
            return answer, bytes(guest.received[guest.opened[0]])

    assert asyncio.run(scenario()) == (content, content)


def test_many_clients_at_once_get_their_own() -> None:
    async def scenario() -> list[bytes]:
        async with endpoint() as (address, _):
            return await asyncio.gather(*(exchange(address, bytes([n]) * 50_000) for n in range(40)))

    assert asyncio.run(scenario()) == [bytes([n]) * 50_000 for n in range(40)]


def test_a_client_that_leaves_is_broken_off_in_the_guest() -> None:
    async def scenario() -> None:
        async with endpoint() as (address, guest):
            client = socket.create_connection(address)
            await until(lambda: guest.opened)
            # With it, close() resets the connection instead of finishing it.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await until(lambda: guest.aborted)

    asyncio.run(scenario())


def test_a_guest_that_takes_nothing_slows_its_client_down() -> None:
    async def scenario() -> int:
        async with endpoint(echoes=False) as (address, _):
            client = socket.create_connection(address)
            client.setblocking(False)
            sent, idle = 0, 0
            # Bounded by windows and the kernel's buffers: far below what a client would send if anybody took it.
            while idle < 200 and sent < 2**28:
                try:
                    sent += client.send(bytes(65536))
                    idle = 0
                except BlockingIOError:
                    idle += 1
                await asyncio.sleep(0)
            client.close()
            return sent

    assert asyncio.run(scenario()) < 2**28


def test_a_guest_that_takes_no_connection_costs_the_client_its_own_only() -> None:
    async def scenario() -> bytes:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        refusals = iter([True, False])
        async with connected() as (channel, _):

            async def dial() -> Stream:
                if next(refusals):
                    raise ConnectionRefusedError("nobody listens")
                return await channel.dial()

            forwarding = Forwarder(listener, dial)
            running = asyncio.create_task(forwarding.run())
            address = listener.getsockname()
            assert await exchange(address, b"") == b""
            answer = await exchange(address, b"word")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await forwarding.close()
            listener.close()
            return answer

    assert asyncio.run(scenario()) == b"word"


def test_clients_beyond_the_bound_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "MAX_CONNECTIONS", 2)

    async def scenario() -> bytes:
        async with endpoint() as (address, guest):
            first = [await asyncio.open_connection(*address) for _ in range(2)]
            await until(lambda: len(guest.opened) == 2)
            third = asyncio.create_task(exchange(address, b"word"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(guest.opened) == 2
            first[0][1].transport.abort()
            answer = await third
            first[1][1].transport.abort()
            return answer

    assert asyncio.run(scenario()) == b"word"
