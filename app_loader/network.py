"""A keep's way to the network: asks its broker, outside the sandbox, for sockets, and checks what it gets.

The broker checks against the spec too. Neither believes the other: what is inside may have been taken over by a guest,
what is outside belongs to the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError, PortTakenError
from keep_protocol.broker import (
    DEADLINE,
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.egress.decision import explain
from keep_protocol.egress.hosts import Address, canonical_address
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.egress.targets import Target, target_of
from keep_protocol.network_api import Decision
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.states import KeepEventKind
from keep_protocol.strict_json import decode_strictly

if TYPE_CHECKING:
    from app_loader.events import Events

MAX_REQUESTS: Final = 32
"""At a time; further ones wait."""
PATIENCE: Final = 5.0
"""Seconds for a broker that is starting again to be there."""

_PAUSE: Final = 0.05
_NOT_THERE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN})
_UNREACHABLE: Final = frozenset(
    {
        BrokerResult.NAME_NOT_FOUND,
        BrokerResult.CONNECTION_REFUSED,
        BrokerResult.TIMEOUT,
        BrokerResult.UNREACHABLE,
    }
)


class _Answered(NamedTuple):
    answer: BrokerAnswer
    socket: socket.socket | None


class Network:
    """What the spec lets a keep do on the network; every refusal becomes an event."""

    def __init__(self, policy: NetworkPolicy, spec_digest: str, broker: Path | None, events: Events) -> None:
        """`broker` is the path of the broker's socket; there is one when the spec names any network."""
        self._listen = frozenset(policy.listen)
        self._policy = EgressPolicy.of(policy.egress)
        self._spec_digest = spec_digest
        self._broker = broker
        self._events = events
        self._requests = asyncio.Semaphore(MAX_REQUESTS)

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        """A TCP connection, non-blocking, to a host that the spec allows; the caller closes it.

        `method` is that of the HTTP request that it is for; None: it is not for HTTP. Raises `EgressError` for a host,
        a port or a method that is none, `EgressDeniedError`, `HostUnreachableError`, `NetworkUnavailableError`.
        """
        target = target_of(host, port, method)
        self._check(target, None)
        answered = await self._ask(BrokerOperation.CONNECT, target.port, str(target.host), target.method)
        connection = self._socket(answered, target)
        try:
            self._check_peer(connection, target)
        except BaseException:
            connection.close()
            raise
        return connection

    async def bind(self, port: int, address: str = "") -> socket.socket:
        """A listening TCP socket, non-blocking, at a port of the spec's `network.listen`; the caller closes it.

        It listens at one address (canonical), or wherever the host lets ports of keeps be reached. Raises
        `EgressDeniedError`, `PortTakenError`, `NetworkUnavailableError`.
        """
        if port not in self._listen:
            reason = f"the spec's `network.listen` does not name port {port}"
            self._events.record(KeepEventKind.LISTEN_DENIED, port=port, reason=reason)
            raise EgressDeniedError(reason)
        answered = await self._ask(BrokerOperation.BIND, port, address)
        listener = self._socket(answered, None)
        try:
            place = listener.getsockname()
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and place[1] == port and address in ("", place[0]):
                return listener
        except OSError:
            pass
        listener.close()
        where = f"port {port} at {address}" if address else f"port {port}"
        raise NetworkUnavailableError(f"the broker sent a socket that does not listen on {where}")

    async def explain(self, host: str, port: int, *, method: str | None = None) -> Decision:
        """What the policy says of a host, and of its addresses if it allows the host; connects to nobody.

        Raises `EgressError`, `HostUnreachableError`, `NetworkUnavailableError`.
        """
        target = target_of(host, port, method)
        decision = explain(self._policy, target)
        if not decision.allowed or not isinstance(target.host, str):
            return decision
        answered = await self._ask(BrokerOperation.RESOLVE, target.port, target.host, target.method)
        if answered.answer.result not in (BrokerResult.OK, BrokerResult.DENIED):
            raise _failure(answered.answer)
        return explain(self._policy, target, _addresses(answered.answer))

    def _check(self, target: Target, addresses: Sequence[Address] | None) -> None:
        decision = explain(self._policy, target, addresses)
        if not decision.allowed:
            self._denied(target, decision.reason, decision.rule)

    def _check_peer(self, connection: socket.socket, target: Target) -> None:
        """Whatever the broker did: the other end is one that the policy lets this host have."""
        try:
            address, port = connection.getpeername()[:2]
            peer = canonical_address(address.partition("%")[0])
        except (OSError, ValueError):
            raise NetworkUnavailableError("the broker sent a socket that is not connected by TCP") from None
        if port != target.port or not (isinstance(target.host, str) or peer == target.host):
            self._denied(target, f"the broker connected to {address} port {port}", None)
        self._check(target, (peer,))

    def _denied(self, target: Target, reason: str, rule: str | None) -> None:
        self._events.record(
            KeepEventKind.EGRESS_DENIED,
            host=str(target.host),
            port=target.port,
            method=target.method,
            rule=rule,
            reason=reason,
        )
        raise EgressDeniedError(f"{target}: {reason}", rule=rule)

    def _socket(self, answered: _Answered, target: Target | None) -> socket.socket:
        answer, received = answered
        if answer.result is BrokerResult.DENIED and target is not None:
            self._denied(target, answer.reason, answer.rule)
        if answer.result is not BrokerResult.OK:
            raise _failure(answer)
        if received is None:
            raise NetworkUnavailableError("the broker sent no socket")
        return received

    async def _ask(self, operation: BrokerOperation, port: int, host: str = "", method: str | None = None) -> _Answered:
        """The broker's answer; one that dies meanwhile is asked again when it is back."""
        request = msgspec.json.encode(
            BrokerRequest(PROTOCOL_VERSION, self._spec_digest, operation, port, host=host, method=method)
        )
        async with self._requests:
            try:
                async with asyncio.timeout(DEADLINE + PATIENCE):
                    while True:
                        if (answered := await self._exchange(request)) is not None:
                            return answered
                        await asyncio.sleep(_PAUSE)
            except TimeoutError:
                raise NetworkUnavailableError("the network broker of this keep does not answer") from None

    async def _exchange(self, request: bytes) -> _Answered | None:
        """One connection to the broker; None when it went away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as channel:
            if self._broker is None:
                raise NetworkUnavailableError("this keep has no network broker")
            await _connect(channel, self._broker)
            try:
                channel.send(request)
                await _readable(channel)
                return _receive(channel)
            except (BrokenPipeError, ConnectionResetError):
                return None


async def _connect(channel: socket.socket, path: Path) -> None:
    """Raises `NetworkUnavailableError` when nobody listens there for as long as a restart may take."""
    give_up = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            # Not loop.sock_connect(): for a full backlog a UNIX socket says EAGAIN, and is never writable then.
            channel.connect(str(path))
            return
        except OSError as error:
            if error.errno not in _NOT_THERE or asyncio.get_running_loop().time() > give_up:
                detail = error.strerror or type(error).__name__
                raise NetworkUnavailableError(f"the network broker of this keep cannot be reached: {detail}") from None
        await asyncio.sleep(_PAUSE)


async def _readable(channel: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(channel, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(channel)


def _receive(channel: socket.socket) -> _Answered | None:
    message, descriptors, flags, _ = socket.recv_fds(channel, MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC)
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        if not message:
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            raise NetworkUnavailableError("the broker sent more than belongs to an answer")
        answer = _decoded(message)
        if not descriptors:
            return _Answered(answer, None)
        try:
            received = socket.socket(fileno=descriptors[0])
        except OSError:
            raise NetworkUnavailableError("the broker sent a descriptor that is no socket") from None
        stack.pop_all()
        received.setblocking(False)
        return _Answered(answer, received)


def _decoded(message: bytes) -> BrokerAnswer:
    try:
        answer = decode_strictly(message, BrokerAnswer)
    except msgspec.MsgspecError as error:
        raise NetworkUnavailableError(f"the broker's answer is malformed: {error}") from None
    if answer.version != PROTOCOL_VERSION:
        raise NetworkUnavailableError(f"the broker speaks version {answer.version}, not {PROTOCOL_VERSION}")
    return answer


def _addresses(answer: BrokerAnswer) -> tuple[Address, ...]:
    try:
        return tuple(map(canonical_address, answer.addresses))
    except ValueError as error:
        raise NetworkUnavailableError(f"the broker's answer is malformed: {error}") from None


def _failure(answer: BrokerAnswer) -> NetworkUnavailableError:
    if answer.result in _UNREACHABLE:
        return HostUnreachableError(answer.reason, answer.result)
    if answer.result is BrokerResult.PORT_TAKEN:
        return PortTakenError(answer.reason)
    return NetworkUnavailableError(f"{answer.result}: {answer.reason}")
