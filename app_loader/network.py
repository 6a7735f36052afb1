"""A keep's way to the network: asks its broker, outside the sandbox, for sockets, and checks what it gets.

The broker checks against the spec too. Neither believes the other: what is inside may have been taken over by a guest,
what is outside belongs to the host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from app_loader.broker_exchange import Answered, ask
from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError, PortTakenError
from keep_protocol.broker import (
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.egress.decision import explain
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.hosts import Address, canonical_address
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.egress.targets import Target, target_of
from keep_protocol.network_api import Decision
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.states import KeepEventKind

if TYPE_CHECKING:
    from app_loader.events import Events

MAX_REQUESTS: Final = 32
"""At a time; further ones wait."""
_UNREACHABLE: Final = frozenset(
    {
        BrokerResult.NAME_NOT_FOUND,
        BrokerResult.CONNECTION_REFUSED,
        BrokerResult.TIMEOUT,
        BrokerResult.UNREACHABLE,
    }
)


class Network:
    """What the spec lets a keep do on the network; every refusal becomes an event."""

    def __init__(
        self,
        policy: NetworkPolicy,
        spec_digest: str,
        broker: Path | None,
        events: Events,
        *,
        relayed: bool = False,
    ) -> None:
        """`broker` is the path of the broker's socket; there is one when the spec names any network.

        `relayed`: it is outside of this machine, so that what it gives are ends of its connections, and who is at the
        other end is known by its word alone.
        """
        self._listen = frozenset(policy.listen)
        self._policy = EgressPolicy.of(policy.egress)
        self._spec_digest = spec_digest
        self._broker = broker
        self._events = events
        self._relayed = relayed
        self._requests = asyncio.Semaphore(MAX_REQUESTS)

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        """A TCP connection, non-blocking, to a host that the spec allows; the caller closes it.

        `method` is that of the HTTP request that it is for; None: it is not for HTTP. Raises `EgressError` for a host,
        a port or a method that is none, `EgressDeniedError`, `HostUnreachableError`, `NetworkUnavailableError`.
        """
        target = self._target(host, port, method)
        self._check(target, None)
        answered = await self._ask(BrokerOperation.CONNECT, target.port, str(target.host), target.method)
        connection = self._socket(answered, target)
        try:
            self._check_peer(*self._peer(connection, answered.answer), target)
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

    def _target(self, host: str, port: int, method: str | None) -> Target:
        try:
            return target_of(host, port, method)
        except EgressError as error:
            # Spellings that not everybody reads alike are how guests try to pass rules.
            self._events.record(KeepEventKind.EGRESS_DENIED, host=host, port=port, method=method, reason=str(error))
            raise

    def _check(self, target: Target, addresses: Sequence[Address] | None) -> None:
        decision = explain(self._policy, target, addresses)
        if not decision.allowed:
            self._denied(target, decision.reason, decision.rule)

    def _peer(self, connection: socket.socket, answer: BrokerAnswer) -> tuple[Address, int | None]:
        """Who is at the other end, and at which port if that is known."""
        if self._relayed:
            addresses = _addresses(answer)
            if len(addresses) != 1 or connection.type != socket.SOCK_STREAM:
                raise NetworkUnavailableError("the host does not say which address it connected to")
            return addresses[0], None
        try:
            address, port = connection.getpeername()[:2]
            return canonical_address(address.partition("%")[0]), port
        except (OSError, ValueError):
            raise NetworkUnavailableError("the broker sent a socket that is not connected by TCP") from None

    def _check_peer(self, peer: Address, port: int | None, target: Target) -> None:
        """Whatever the broker did: the other end is one that the policy lets this host have."""
        if port not in (None, target.port) or not (isinstance(target.host, str) or peer == target.host):
            at = "" if port is None else f" port {port}"
            self._denied(target, f"the broker connected to {peer}{at}", None)
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

    def _socket(self, answered: Answered, target: Target | None) -> socket.socket:
        answer, received = answered
        if answer.result is BrokerResult.DENIED and target is not None:
            self._denied(target, answer.reason, answer.rule)
        if answer.result is not BrokerResult.OK:
            raise _failure(answer)
        if received is None:
            raise NetworkUnavailableError("the broker sent no socket")
        return received

    async def _ask(self, operation: BrokerOperation, port: int, host: str = "", method: str | None = None) -> Answered:
        request = msgspec.json.encode(
            BrokerRequest(PROTOCOL_VERSION, self._spec_digest, operation, port, host=host, method=method)
        )
        if self._broker is None:
            raise NetworkUnavailableError("this keep has no network broker")
        async with self._requests:
            return await ask(self._broker, request)


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
