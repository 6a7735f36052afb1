"""A broker in this event loop, the keep's end of it, and servers on loopback to connect to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from app_loader.events import Events
from app_loader.network import Network
from keep_net.broker import Broker, open_socket
from keep_net.configuration import Allowed
from keep_net.errors import RequestRefusedError
from keep_net.resolution import Resolver
from keep_protocol.broker import BrokerResult
from keep_protocol.egress.hosts import Address, canonical_address
from keep_protocol.egress.rule_text import parse_rule
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.network_policy import Egress, NetworkPolicy

DIGEST = "d" * 64


@dataclass
class StandInResolver:
    """Stands in for DNS: every look-up of a name gets the next of its answers, and the last one for ever."""

    answers: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """What every answer waits for."""

    async def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        if self.gate is not None:
            await self.gate.wait()
        if name not in self.answers:
            raise RequestRefusedError(BrokerResult.NAME_NOT_FOUND, f"{name}: there is no such name")
        answers = self.answers[name]
        turn = min(self.asked.count(name), len(answers)) - 1
        return tuple(map(canonical_address, answers[turn]))


@dataclass
class Brokered:
    """A keep's network with a broker behind it."""

    network: Network
    resolver: StandInResolver
    events: Events
    path: Path

    def denials(self) -> list[dict[str, str]]:
        """What the events tell of connections that were denied."""
        return [event.detail for event in self.events.page(0, 1000).events]


def policy_of(allow: Iterable[str] = (), deny: Iterable[str] = (), listen: Iterable[int] = ()) -> NetworkPolicy:
    """A policy from rules as people write them."""
    egress = Egress(allow=tuple(map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)))
    return NetworkPolicy(listen=tuple(listen), egress=egress)


def allowed(policy: NetworkPolicy, address: str = "127.0.0.1") -> Allowed:
    """What a broker with this policy may do."""
    return Allowed(DIGEST, EgressPolicy.of(policy.egress), frozenset(policy.listen), canonical_address(address))


@contextlib.asynccontextmanager
async def serving(
    policy: NetworkPolicy, resolver: Resolver, path: Path, address: str = "127.0.0.1"
) -> AsyncIterator[None]:
    """A broker that listens at `path`."""
    with open_socket(path) as listener:
        task = asyncio.create_task(Broker(allowed(policy, address), resolver).accept(listener))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@contextlib.asynccontextmanager
async def brokered(
    policy: NetworkPolicy,
    answers: Mapping[str, Sequence[tuple[str, ...]]] | None = None,
    *,
    of_keep: NetworkPolicy | None = None,
    address: str = "127.0.0.1",
) -> AsyncIterator[Brokered]:
    """Broker and keep with the same policy, unless the keep's own is given."""
    with TemporaryDirectory(prefix="wk") as folder:
        path = Path(folder) / "net.sock"
        resolver, events = StandInResolver(answers or {}), Events()
        async with serving(policy, resolver, path, address):
            yield Brokered(Network(of_keep or policy, DIGEST, path, events), resolver, events, path)


@contextlib.asynccontextmanager
async def answering(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A TCP server that says by which of its addresses it was reached; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("sockname")[0].encode())
        writer.close()

    server = await asyncio.start_server(answer, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def said(connection: socket.socket) -> str:
    """What the server at the other end says; closes the connection."""
    with connection:
        return (await asyncio.get_running_loop().sock_recv(connection, 100)).decode()


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
