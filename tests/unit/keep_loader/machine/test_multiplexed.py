"""Many connections over one serial port, with guests that echo, stall, tear, flood and talk nonsense."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from collections.abc import Callable

import pytest

from keep_loader.errors import MachineError
from keep_loader.machine.multiplexed import MultiplexedChannel
from keep_loader.machine.streams import Stream
from keep_protocol.channel import MAX_STREAMS, OUTPUT_SOFT_LIMIT, WINDOW
from tests.unit.keep_loader.machine.serial_guest import connected, until


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while data := await stream.read():
        received += data
    return bytes(received)


async def exchange(stream: Stream, content: bytes) -> bytes:
    """Send `content`, finish, and read to the end, both at once as TLS does."""

    async def send() -> None:
        await stream.write(content)
        await stream.finish()

    sending = asyncio.create_task(send())
    received = await read_all(stream)
    await sending
    stream.close()
    return received


def test_bytes_come_back_as_they_were() -> None:
    content = os.urandom(3 * WINDOW + 17)

    async def scenario() -> bytes:
        async with connected() as (channel, _):
            return await exchange(await channel.dial(), content)

    assert asyncio.run(scenario()) == content


def test_many_connections_at_once_do_not_mix() -> None:
    contents = [bytes([number]) * (20_000 + number) for number in range(50)]

    async def scenario() -> list[bytes]:
        async with connected() as (channel, _):
            streams = [await channel.dial() for _ in contents]
            return await asyncio.gather(*map(exchange, streams, contents))

    assert asyncio.run(scenario()) == contents


def test_a_guest_that_takes_nothing_stops_the_sender_and_nothing_is_hoarded() -> None:
    async def scenario() -> int:
        async with connected() as (channel, guest):
            stream = await channel.dial()
            await until(lambda: guest.opened)
            guest.reads.clear()
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await stream.write(bytes(4096))
                    sent += 4096

            flooding = asyncio.create_task(flood())
            before = -1
            # Until a round of the loop in which everybody could run has changed nothing.
            while before != sent:
                before = sent
                for _ in range(50):
                    await asyncio.sleep(0)
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            return sent

    assert asyncio.run(scenario()) <= WINDOW + OUTPUT_SOFT_LIMIT


def test_a_connection_that_nobody_reads_does_not_stop_the_others() -> None:
    async def scenario() -> bytes:
        async with connected() as (channel, _):
            idle = await channel.dial()
            writing = asyncio.create_task(idle.write(bytes(4 * WINDOW)))
            received = await exchange(await channel.dial(), b"word")
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            return received

    assert asyncio.run(scenario()) == b"word"


def test_a_connection_that_is_closed_is_broken_off_in_the_guest() -> None:
    async def scenario() -> None:
        async with connected() as (channel, guest):
            stream = await channel.dial()
            await stream.write(b"x")
            stream.close()
            await until(lambda: guest.aborted)
            assert guest.aborted == guest.opened

    asyncio.run(scenario())


def test_a_connection_that_the_guest_breaks_off_is_an_error() -> None:
    async def scenario() -> None:
        async with connected() as (channel, guest):
            stream = await channel.dial()
            await until(lambda: guest.opened)
            guest.multiplexer.abort(guest.opened[0], "too busy")
            await guest.flush()
            with pytest.raises(ConnectionResetError, match="too busy"):
                await stream.read()
            with pytest.raises(OSError, match=r"too busy|takes no more"):
                await stream.write(b"x")

    asyncio.run(scenario())


def test_one_connection_too_many_is_refused_and_the_others_live() -> None:
    async def scenario() -> bytes:
        async with connected() as (channel, _):
            streams = [await channel.dial() for _ in range(MAX_STREAMS)]
            with pytest.raises(ConnectionRefusedError):
                await channel.dial()
            return await exchange(streams[-1], b"word")

    assert asyncio.run(scenario()) == b"word"


def test_a_guest_that_asks_for_what_there_is_not_is_refused() -> None:
    async def scenario() -> None:
        async with connected() as (_, guest):
            guest.multiplexer.open("internet")
            await guest.flush()
            await until(lambda: guest.aborted)

    asyncio.run(scenario())


def test_a_channel_that_tears_breaks_its_connections() -> None:
    async def scenario() -> None:
        async with connected() as (channel, guest):
            stream = await channel.dial()
            await until(lambda: guest.opened)
            guest.connection.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionResetError, match="closed"):
                await stream.read()
            with pytest.raises(ConnectionRefusedError, match="closed"):
                await channel.dial()

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\xff" * 5000, bytes(5000)])
def test_a_guest_that_sends_no_frames_ends_the_channel(content: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        channel = MultiplexedChannel(ours)
        with theirs:
            theirs.sendall(content)
            with pytest.raises(MachineError, match="channel-broken"):
                await channel.run()
        channel.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        # Each asks for an answer that it does not read.
        (lambda n: struct.pack("!BxHI", 2, 8, 2 + 2 * n) + b"internet", "asks for answers and reads none"),
        # More than its window, which nobody acknowledges because no client reads.
        (lambda _: struct.pack("!BxHI", 3, 32768, 1) + bytes(32768), "than its window"),
    ],
    ids=["requests", "data"],
)
def test_a_guest_that_floods_is_given_up_before_it_fills_memory(frame: Callable[[int], bytes], reason: str) -> None:
    async def scenario() -> int:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        channel = MultiplexedChannel(ours)
        running = asyncio.create_task(channel.run())
        await channel.dial()
        loop = asyncio.get_running_loop()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            await loop.sock_sendall(theirs, struct.pack("!BxHI", 1, 18, 0) + b"wasmkeep-channel\x00\x01")
            for number in itertools.count():
                await loop.sock_sendall(theirs, frame(number))
                sent += 1

        flooding = asyncio.create_task(flood())
        with pytest.raises(MachineError, match=reason):
            await running
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        channel.close()
        theirs.close()
        return sent

    assert asyncio.run(scenario()) < 500_000
