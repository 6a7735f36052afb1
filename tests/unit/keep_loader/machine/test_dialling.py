"""Reaching keeps by every kind of address, and peers that are not what they should be."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keep_loader.machine import dialling
from keep_loader.machine.dialling import HybridVsockAddress, KeepAddress, TcpAddress, UnixAddress, VsockAddress, dial


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(-1))
    writer.close()
    await writer.wait_closed()


def _greeting(greeting: bytes) -> asyncio.streams._ClientConnectedCallback:
    """What answers to CONNECT with `greeting` and echoes then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"CONNECT 4433\n"
        writer.write(greeting)
        await _echo(reader, writer)

    return serve


@asynccontextmanager
async def unix_server(serve: asyncio.streams._ClientConnectedCallback) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="vm") as folder:
        path = str(Path(folder) / "socket")
        server = await asyncio.start_unix_server(serve, path)
        async with server:
            yield path


async def exchange(address: KeepAddress) -> bytes:
    """Send a word, finish, and read all that comes back."""
    stream = await dial(address)
    try:
        await stream.write(b"word")
        await stream.finish()
        received = b""
        while data := await stream.read():
            received += data
        return received
    finally:
        stream.close()


def test_a_tcp_port_is_reached() -> None:
    async def scenario() -> bytes:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        async with server:
            return await exchange(TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1]))

    assert asyncio.run(scenario()) == b"word"


def test_a_unix_socket_is_reached() -> None:
    async def scenario() -> bytes:
        async with unix_server(_echo) as path:
            return await exchange(UnixAddress(path))

    assert asyncio.run(scenario()) == b"word"


def test_a_vsock_port_behind_a_unix_socket_is_asked_for_first() -> None:
    async def scenario() -> bytes:
        async with unix_server(_greeting(b"OK 1073741824\n")) as path:
            return await exchange(HybridVsockAddress(path, 4433))

    assert asyncio.run(scenario()) == b"word"


@pytest.mark.parametrize("greeting", [b"", b"ERR\n", b"O" * 100, b"OK"])
def test_a_vsock_port_that_nobody_listens_at_is_refused(greeting: bytes) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(greeting)
        writer.close()

    async def scenario() -> None:
        async with unix_server(refuse) as path:
            await dial(HybridVsockAddress(path, 4433))

    with pytest.raises(ConnectionRefusedError, match="vsock port is not connected"):
        asyncio.run(scenario())


def test_a_peer_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "DIAL_DEADLINE", 0.05)

    async def scenario() -> None:
        hung_up = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            writer.close()
            hung_up.set()

        async with unix_server(stall) as path:
            with pytest.raises(TimeoutError):
                await dial(HybridVsockAddress(path, 4433))
            await hung_up.wait()

    asyncio.run(scenario())


def test_an_address_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OSError, match=r"."):
        asyncio.run(dial(UnixAddress("/nonexistent/socket")))


def test_a_guest_without_a_machine_is_an_error() -> None:
    with pytest.raises(OSError, match=r"."):
        asyncio.run(dial(VsockAddress(0x7FFFFFF0, 4433)))
