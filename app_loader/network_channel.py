"""Gives a process that can make no sockets those that it may have: over a socketpair, from the server's network.

Such a process needs nothing but sendmsg and recvmsg for it, which the filters of runs leave.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError, PortTakenError
from keep_protocol.broker import BrokerResult
from keep_protocol.egress.errors import EgressError
from keep_protocol.strict_json import decode_strictly

if TYPE_CHECKING:
    from app_loader.network import Network

_MAX_MESSAGE: Final = 16 * 1024


class ChannelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process wants: a connection, or with no host a listening socket."""

    port: int
    host: str | None = None
    method: str | None = None


class ChannelAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it gets; with `ok` comes a descriptor."""

    outcome: Literal["ok", "invalid", "denied", "unreachable", "port-taken", "unavailable"]
    detail: str = ""
    rule: str | None = None
    result: BrokerResult | None = None
    """Why a host is unreachable."""


def network_channel() -> tuple[socket.socket, socket.socket]:
    """The server's end, for `serve_network`, and the other process's, for `NetworkClient`; the caller closes both."""
    server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.setblocking(False)
    return server, client


async def serve_network(channel: socket.socket, network: Network) -> None:
    """Answer the requests that come over `channel` until its other end is closed, one after the other.

    The other process is not believed: what it sends is checked like what a stranger sends.
    """
    loop = asyncio.get_running_loop()
    while message := await _receive(loop, channel):
        answer, given = await _answer(network, message)
        try:
            # It waits for this answer, and has read all before it: so there is room.
            socket.send_fds(channel, [msgspec.json.encode(answer)], [given.fileno()] if given else [])
        except OSError:
            return
        finally:
            if given is not None:
                given.close()


async def _receive(loop: asyncio.AbstractEventLoop, channel: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(channel, _MAX_MESSAGE)
    except OSError:
        return b""


async def _answer(network: Network, message: bytes) -> tuple[ChannelAnswer, socket.socket | None]:
    try:
        request = decode_strictly(message, ChannelRequest)
        if request.host is None:
            given = await network.bind(request.port)
        else:
            given = await network.connect(request.host, request.port, method=request.method)
    except (msgspec.MsgspecError, EgressError) as error:
        return ChannelAnswer("invalid", str(error)), None
    except EgressDeniedError as error:
        return ChannelAnswer("denied", str(error), rule=error.rule), None
    except HostUnreachableError as error:
        return ChannelAnswer("unreachable", str(error), result=error.result), None
    except PortTakenError as error:
        return ChannelAnswer("port-taken", str(error)), None
    except NetworkUnavailableError as error:
        return ChannelAnswer("unavailable", str(error)), None
    return ChannelAnswer("ok"), given


class NetworkClient:
    """The other end, in a process that may have no event loop; one request at a time, in one thread."""

    def __init__(self, channel: socket.socket) -> None:
        """`channel` is blocking, and the caller's to close."""
        self._channel = channel

    def connect(self, host: str, port: int, method: str | None = None) -> socket.socket:
        """Like `Network.connect`, blocking; the socket is non-blocking. Raises the same errors."""
        return self._ask(ChannelRequest(port, host, method))

    def bind(self, port: int) -> socket.socket:
        """Like `Network.bind`, blocking; the socket is non-blocking. Raises the same errors."""
        return self._ask(ChannelRequest(port))

    def _ask(self, request: ChannelRequest) -> socket.socket:
        try:
            self._channel.sendall(msgspec.json.encode(request))
            message, descriptors, _, _ = socket.recv_fds(self._channel, _MAX_MESSAGE, 1)
        except OSError as error:
            raise NetworkUnavailableError(f"the keep's server does not answer: {error.strerror}") from None
        if not message:
            raise NetworkUnavailableError("the keep's server has closed the channel")
        answer = decode_strictly(message, ChannelAnswer)
        match answer.outcome:
            case "ok":
                return socket.socket(fileno=descriptors[0])
            case "invalid":
                raise EgressError(answer.detail)
            case "denied":
                raise EgressDeniedError(answer.detail, rule=answer.rule)
            case "unreachable":
                raise HostUnreachableError(answer.detail, answer.result or BrokerResult.UNREACHABLE)
            case "port-taken":
                raise PortTakenError(answer.detail)
            case "unavailable":
                raise NetworkUnavailableError(answer.detail)
