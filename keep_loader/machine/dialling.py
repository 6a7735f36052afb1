"""Reaches a keep from its host: one `dial` for every way in which machines can be reached."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final, TypeAlias

from keep_loader.machine.streams import SocketStream

DIAL_DEADLINE: Final = 10.0
"""Seconds until a guest that does not answer counts as broken."""

_MAX_GREETING: Final = 64


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port of an address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A listening UNIX socket."""

    path: str


@dataclass(frozen=True, slots=True)
class HybridVsockAddress:
    """A vsock port behind a UNIX socket that asks for it: `CONNECT port`, answered by `OK …`.

    The way of vhost-device-vsock, Firecracker and Cloud Hypervisor.
    """

    path: str
    port: int


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A port of a guest's context; vsock(7)."""

    context: int
    port: int


KeepAddress: TypeAlias = TcpAddress | UnixAddress | HybridVsockAddress | VsockAddress


async def dial(address: KeepAddress) -> SocketStream:
    """A connection to the keep. Raises `OSError`, of which `TimeoutError` is one."""
    match address:
        case TcpAddress(host, port):
            return await _connected(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port))
        case UnixAddress(path):
            return await _connected(socket.AF_UNIX, path)
        case VsockAddress(context, port):
            return await _connected(socket.AF_VSOCK, (context, port))
        case HybridVsockAddress(path, port):
            stream = await _connected(socket.AF_UNIX, path)
            try:
                async with asyncio.timeout(DIAL_DEADLINE):
                    await stream.write(f"CONNECT {port}\n".encode())
                    await _await_ok(stream)
            except BaseException:
                stream.close()
                raise
            return stream


async def _connected(family: int, address: tuple[str | int, int] | str) -> SocketStream:
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(DIAL_DEADLINE):
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return SocketStream(connection)


async def _await_ok(stream: SocketStream) -> None:
    """The peer says nothing before we do, so no byte of the keep's can be in what is read here."""
    greeting = b""
    while not greeting.endswith(b"\n"):
        received = await stream.read()
        greeting += received
        if not received or len(greeting) > _MAX_GREETING:
            raise ConnectionRefusedError(f"the vsock port is not connected: {greeting[:_MAX_GREETING]!r}")
    if not greeting.startswith(b"OK "):
        raise ConnectionRefusedError(f"the vsock port is not connected: {greeting[:_MAX_GREETING]!r}")
