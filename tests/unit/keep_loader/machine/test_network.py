"""The network of a machine, from the keep inside to servers outside: both ends of the channel, and a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError
from app_loader.events import Events
from app_loader.network import Network
from keep_guest.data_channel import DataChannel
from keep_guest.network import NetworkRelay, connect_port
from keep_loader.machine.multiplexed import MultiplexedChannel
from keep_loader.machine.network import MachineNetwork
from keep_loader.machine.streams import Stream
from keep_protocol.broker import PROTOCOL_VERSION, BrokerAnswer, BrokerResult
from keep_protocol.channel import NETWORK_SERVICE, PORT_SERVICE
from keep_protocol.framed_message import framed
from keep_protocol.network_policy import NetworkPolicy
from tests.unit.keep_net.brokered import DIGEST, StandInResolver, policy_of, serving

NAME = "db.example"


class Guest:
    """Init's loop in a thread, as it runs in a machine."""

    def __init__(self, port: socket.socket, broker: Path) -> None:
        port.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)

        def connect(service: str) -> socket.socket | None:
            number = service.removeprefix(PORT_SERVICE)
            return connect_port(int(number)) if number.isdecimal() else None

        NetworkRelay(self._selector, DataChannel(self._selector, port.fileno(), connect), broker)
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        while True:
            for key, ready in self._selector.select():
                if key.data is None:
                    return
                key.data(ready)

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for key in tuple(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._wake.close()


@dataclass
class Machine:
    """What a test has of one."""

    network: Network
    """The keep's, inside."""
    host: MachineNetwork
    events: Events


@contextlib.asynccontextmanager
async def machine(
    policy: NetworkPolicy,
    *,
    of_host: NetworkPolicy | None = None,
    serve: Callable[[Stream], Awaitable[None]] | None = None,
) -> AsyncIterator[Machine]:
    """A machine with a network; `serve` in the place of the host."""
    with TemporaryDirectory(prefix="wk") as folder, contextlib.ExitStack() as stack:
        outside, within = Path(folder) / "net.sock", Path(folder) / "guest.sock"
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        channel: MultiplexedChannel

        async def dial_port(port: int) -> Stream:
            return await channel.dial(f"{PORT_SERVICE}{port}")

        host = MachineNetwork(outside, dial_port)
        channel = MultiplexedChannel(ours, {NETWORK_SERVICE: serve or host.serve})
        guest = Guest(theirs, within)
        events = Events()
        async with serving(of_host or policy, StandInResolver({NAME: [("127.0.0.1",)]}), outside):
            carrying = asyncio.create_task(channel.run())
            try:
                yield Machine(Network(policy, DIGEST, within, events, relayed=True), host, events)
            finally:
                await host.close()
                carrying.cancel()
                await asyncio.wait([carrying])
                channel.close()
                await asyncio.to_thread(guest.close)


@contextlib.asynccontextmanager
async def shouting() -> AsyncIterator[int]:
    """A TCP server that sends back all that it got, in upper case, when its client has finished; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def exchange(connection: socket.socket, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(content)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_connections_go_both_ways_to_their_end() -> None:
    content = b"a" * 3_000_000

    async def scenario() -> bytes:
        async with shouting() as port, machine(policy_of([f"{NAME}:{port}+private"])) as made:
            connections = [await made.network.connect(NAME, port) for _ in range(3)]
            answers = await asyncio.gather(*(exchange(connection, content) for connection in connections))
            assert answers[0] == answers[1] == answers[2]
            return answers[0]

    assert asyncio.run(scenario()) == content.upper()


def test_the_keep_checks_the_address_that_the_host_names() -> None:
    async def scenario() -> None:
        async with shouting() as port:
            # The host's broker would connect to an address of the host's own; the keep's policy does not let it.
            wide = policy_of([f"{NAME}:{port}+private"])
            async with machine(policy_of([f"{NAME}:{port}"]), of_host=wide) as made:
                with pytest.raises(EgressDeniedError, match="loopback"):
                    await made.network.connect(NAME, port)
                assert [event.kind for event in made.events.page(0, 100).events] == ["egress-denied"]

    asyncio.run(scenario())


def test_the_host_checks_what_a_guest_asks_for_that_was_taken_over() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        wide = policy_of([f"127.0.0.1:{port}+private"], listen=[port])
        async with machine(wide, of_host=policy_of(["1.1.1.1"])) as made:
            with pytest.raises(EgressDeniedError):
                await made.network.connect("127.0.0.1", port)
            with pytest.raises(NetworkUnavailableError, match="denied"):
                await made.network.bind(port)

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_told() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        async with machine(policy_of([f"127.0.0.1:{port}+private"])) as made:
            with pytest.raises(HostUnreachableError, match="Connection refused"):
                await made.network.connect("127.0.0.1", port)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said",
    [
        b"no answer",
        framed(b"\xff"),
        framed(msgspec.json.encode(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK))),
        framed(msgspec.json.encode(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK, addresses=("1.1.1.1", "1.1.1.2")))),
        framed(msgspec.json.encode(BrokerAnswer(99, BrokerResult.OK, addresses=("1.1.1.1",)))),
        b"",
    ],
)
def test_a_host_that_answers_nonsense_gives_no_connection(said: bytes) -> None:
    async def serve(stream: Stream) -> None:
        await stream.read()
        if said:
            await stream.write(said)
        await stream.finish()

    async def scenario() -> None:
        async with machine(policy_of(["1.1.1.1"]), serve=serve) as made:
            with pytest.raises(NetworkUnavailableError):
                await made.network.connect("1.1.1.1", 443)

    asyncio.run(scenario())


def test_a_host_that_connects_elsewhere_is_refused_by_the_address_it_tells() -> None:
    async def serve(stream: Stream) -> None:
        await stream.read()
        answer = BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK, addresses=("1.1.1.2",))
        await stream.write(framed(msgspec.json.encode(answer)))

    async def scenario() -> None:
        async with machine(policy_of(["1.1.1.1"]), serve=serve) as made:
            with pytest.raises(EgressDeniedError, match=r"the broker connected to 1\.1\.1\.2"):
                await made.network.connect("1.1.1.1", 443)

    asyncio.run(scenario())
