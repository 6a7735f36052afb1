"""A broker and a keep that ask each other for sockets, and brokers that keeps must not believe."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import pytest

from app_loader.errors import (
    EgressDeniedError,
    HostUnreachableError,
    NetworkUnavailableError,
    PortTakenError,
)
from app_loader.events import Events
from app_loader.network import Network
from keep_net.broker import MAX_REQUESTS
from keep_protocol.broker import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.egress.errors import EgressError
from tests.unit.keep_net.brokered import (
    DIGEST,
    StandInResolver,
    answering,
    brokered,
    free_port,
    policy_of,
    said,
    serving,
)


def ask_raw(path: Path, message: bytes) -> tuple[BrokerAnswer | None, int]:
    """The answer to a message that is sent as it is, and how many descriptors came with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(30)
        channel.connect(str(path))
        channel.send(message)
        answer, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 4)
        for descriptor in descriptors:
            os.close(descriptor)
        return (msgspec.json.decode(answer, type=BrokerAnswer) if answer else None), len(descriptors)


def request(operation: BrokerOperation = BrokerOperation.CONNECT, **fields: Any) -> bytes:
    """A request as a keep makes it."""
    known: dict[str, Any] = {"version": PROTOCOL_VERSION, "spec_digest": DIGEST, "port": 443, "host": "example.com"}
    return msgspec.json.encode(BrokerRequest(operation=operation, **(known | fields)))


def test_a_keep_is_connected_to_whom_its_spec_names() -> None:
    async def run() -> None:
        async with answering() as port, brokered(policy_of([f"127.0.0.1:{port}+private"])) as keep:
            connection = await keep.network.connect("127.0.0.1", port)
            assert not connection.getblocking()
            assert await said(connection) == "127.0.0.1"
            assert keep.resolver.asked == []
            assert keep.denials() == []

    asyncio.run(run())


def test_an_answer_that_changes_after_the_check_is_not_even_asked_for() -> None:
    async def run() -> None:
        async with answering("127.0.0.1") as port, answering("127.0.0.2", port):
            rules = policy_of([f"name.test:{port}+private"], [f"127.0.0.2:{port}"])
            async with brokered(rules, {"name.test": [("127.0.0.1",), ("127.0.0.2",)]}) as keep:
                assert await said(await keep.network.connect("name.test", port)) == "127.0.0.1"
                assert keep.resolver.asked == ["name.test"]
                with pytest.raises(EgressDeniedError, match=r"resolves to 127\.0\.0\.2"):
                    await keep.network.connect("name.test", port)

    asyncio.run(run())


def test_a_name_with_one_private_address_is_refused_and_an_event() -> None:
    async def run() -> None:
        async with brokered(policy_of(["name.test"]), {"name.test": [("1.1.1.1", "169.254.169.254")]}) as keep:
            with pytest.raises(EgressDeniedError, match=r"169\.254\.169\.254 is cloud metadata"):
                await keep.network.connect("NAME.test.", 443, method="GET")
            (denial,) = keep.denials()
            assert (denial["host"], denial["port"], denial["method"]) == ("name.test", "443", "GET")
            assert "cloud metadata" in denial["reason"]

    asyncio.run(run())


def test_a_name_that_is_not_allowed_is_not_looked_up() -> None:
    async def run() -> None:
        async with brokered(policy_of(["name.test"])) as keep:
            with pytest.raises(EgressDeniedError):
                await keep.network.connect("secret-data.evil.test", 443)
            answer, _ = await asyncio.to_thread(ask_raw, keep.path, request(host="secret-data.evil.test"))
            assert answer is not None
            assert answer.result is BrokerResult.DENIED
            assert keep.resolver.asked == []

    asyncio.run(run())


def test_a_broker_refuses_what_a_keep_has_failed_to_refuse() -> None:
    async def run() -> None:
        port = free_port()
        lax = policy_of(["**:*+private", "0.0.0.0/0:*+private"], listen=[port])
        async with brokered(policy_of(["name.test"]), of_keep=lax) as keep:
            with pytest.raises(EgressDeniedError, match="no rule of `allow`"):
                await keep.network.connect("127.0.0.1", port)
            with pytest.raises(NetworkUnavailableError, match=r"denied: the spec's `network\.listen` does not name"):
                await keep.network.bind(port)
            assert [denial["reason"] for denial in keep.denials()] == ["no rule of `allow` is about it"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "result"),
    [
        (request(spec_digest="e" * 64), BrokerResult.WRONG_SPEC),
        (request(version=2), BrokerResult.MALFORMED),
        (request(port=0), BrokerResult.MALFORMED),
        (request(host="user@example.com"), BrokerResult.MALFORMED),
        (request(host="2130706433"), BrokerResult.MALFORMED),
        (request(method="G T"), BrokerResult.MALFORMED),
        (request(BrokerOperation.BIND, port=-1), BrokerResult.DENIED),
        (request().replace(b"connect", b"listen!"), BrokerResult.MALFORMED),
        (request() + b"x" * MAX_MESSAGE, BrokerResult.MALFORMED),
        (b"{", BrokerResult.MALFORMED),
        (b"\xff" * 100, BrokerResult.MALFORMED),
        (b"[" * 10_000, BrokerResult.MALFORMED),
    ],
)
def test_a_broker_answers_malformed_requests_and_goes_on(message: bytes, result: BrokerResult) -> None:
    async def run() -> None:
        async with answering() as port, brokered(policy_of([f"127.0.0.1:{port}+private"])) as keep:
            answer, descriptors = await asyncio.to_thread(ask_raw, keep.path, message)
            assert answer is not None
            assert (answer.result, descriptors) == (result, 0)
            await said(await keep.network.connect("127.0.0.1", port))

    asyncio.run(run())


def test_a_broker_takes_so_many_requests_at_a_time_and_says_so() -> None:
    async def run() -> None:
        async with brokered(policy_of(["name.test"]), {"name.test": [("1.1.1.1",)]}) as keep:
            keep.resolver.gate = asyncio.Event()
            wanted = request(BrokerOperation.RESOLVE, host="name.test")
            loop = asyncio.get_running_loop()
            waiting = []
            for _ in range(MAX_REQUESTS):
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                waiting.append(channel)
                await loop.sock_connect(channel, str(keep.path))
                channel.send(wanted)
            while len(keep.resolver.asked) < MAX_REQUESTS:  # noqa: ASYNC110 - the resolver is asked in this loop
                await asyncio.sleep(0)
            answer, _ = await asyncio.to_thread(ask_raw, keep.path, wanted)
            assert answer is not None
            assert answer.result is BrokerResult.BUSY
            keep.resolver.gate.set()
            for channel in waiting:
                with channel:
                    answer = msgspec.json.decode(await loop.sock_recv(channel, MAX_MESSAGE), type=BrokerAnswer)
                    assert (answer.result, answer.addresses) == (BrokerResult.OK, ("1.1.1.1",))

    asyncio.run(run())


def test_a_host_that_refuses_or_has_no_name_is_unreachable() -> None:
    async def run() -> None:
        port = free_port()
        async with brokered(policy_of([f"127.0.0.1:{port}+private", "name.test"])) as keep:
            with pytest.raises(HostUnreachableError, match="Connection refused") as refused:
                await keep.network.connect("127.0.0.1", port)
            assert refused.value.result is BrokerResult.CONNECTION_REFUSED
            with pytest.raises(HostUnreachableError, match="no such name") as unknown:
                await keep.network.connect("name.test", 443)
            assert unknown.value.result is BrokerResult.NAME_NOT_FOUND
            assert keep.denials() == []

    asyncio.run(run())


def test_the_next_address_of_a_host_is_tried() -> None:
    async def run() -> None:
        async with answering("127.0.0.2") as port:
            answers = {"name.test": [("127.0.0.1", "127.0.0.2")]}
            async with brokered(policy_of([f"name.test:{port}+private"]), answers) as keep:
                assert await said(await keep.network.connect("name.test", port)) == "127.0.0.2"

    asyncio.run(run())


def test_a_keep_listens_on_a_port_that_nobody_else_has() -> None:
    async def run() -> None:
        port = free_port()
        async with brokered(policy_of(listen=[port])) as keep:
            with await keep.network.bind(port) as listener:
                assert not listener.getblocking()
                assert listener.getsockname() == ("127.0.0.1", port)
                with pytest.raises(PortTakenError, match=f"port {port} of `network.listen` at 127.0.0.1 is taken"):
                    await keep.network.bind(port)
            with await keep.network.bind(port) as listener:
                assert listener.getsockname() == ("127.0.0.1", port)
            with pytest.raises(EgressDeniedError, match="does not name port 1"):
                await keep.network.bind(1)
            assert [event.kind for event in keep.events.page(0, 10).events] == ["listen-denied"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "wanted", "at"),
    [
        ("127.0.0.1", "127.0.0.2", None),
        ("0.0.0.0", "127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "::1", None),
        ("::", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "192.0.2.1", None),
    ],
)
def test_a_keep_listens_at_one_address_if_the_host_lets_it(host: str, wanted: str, at: str | None) -> None:
    async def run() -> None:
        port = free_port()
        async with brokered(policy_of(listen=[port]), address=host) as keep:
            if at is None:
                with pytest.raises(NetworkUnavailableError, match=r"port-forbidden: .*(not at|Cannot assign)"):
                    await keep.network.bind(port, wanted)
            else:
                with await keep.network.bind(port, wanted) as listener:
                    assert listener.getsockname()[:2] == (at, port)

    asyncio.run(run())


def test_a_policy_is_explained_without_a_connection() -> None:
    async def run() -> None:
        answers = {"good.test": [("1.1.1.1",)], "bad.test": [("10.0.0.1",)]}
        async with brokered(policy_of(["*.test", "8.8.8.8"]), answers) as keep:
            good = await keep.network.explain("good.test", 443)
            assert (good.allowed, good.addresses) == (True, ("1.1.1.1",))
            assert not (await keep.network.explain("bad.test", 443)).allowed
            assert (await keep.network.explain("8.8.8.8", 443)).allowed
            assert not (await keep.network.explain("elsewhere.example", 443)).allowed
            with pytest.raises(HostUnreachableError):
                await keep.network.explain("unknown.test", 443)
            with pytest.raises(EgressError):
                await keep.network.explain("0x7f.1", 443)
            assert keep.denials() == []

    asyncio.run(run())


def test_a_keep_waits_for_a_broker_that_is_being_started_again() -> None:
    async def run() -> None:
        with TemporaryDirectory(prefix="wk") as folder:
            path = Path(folder) / "net.sock"
            async with answering() as port:
                policy = policy_of([f"127.0.0.1:{port}+private"])
                network = Network(policy, DIGEST, path, Events())
                async with serving(policy, StandInResolver(), path):
                    await said(await network.connect("127.0.0.1", port))
                asking = asyncio.create_task(network.connect("127.0.0.1", port))
                await asyncio.sleep(0)
                async with serving(policy, StandInResolver(), path):
                    assert await said(await asking) == "127.0.0.1"

    asyncio.run(run())


def test_a_keep_without_a_broker_says_so() -> None:
    async def run() -> None:
        network = Network(policy_of(["1.1.1.1"]), DIGEST, None, Events())
        with pytest.raises(NetworkUnavailableError, match="no network broker"):
            await network.connect("1.1.1.1", 443)

    asyncio.run(run())


class Servers(NamedTuple):
    """Whom a keep asks to be connected to, and somebody else."""

    right: tuple[str, int]
    wrong: tuple[str, int]


def _elsewhere(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    with socket.create_connection(servers.wrong) as wrong:
        socket.send_fds(channel, [ok], [wrong.fileno()])


def _unconnected(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    with socket.socket() as unconnected:
        socket.send_fds(channel, [ok], [unconnected.fileno()])


def _pipe(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    reader, writer = os.pipe()
    socket.send_fds(channel, [ok], [reader])
    os.close(reader)
    os.close(writer)


def _unix(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    socket.send_fds(channel, [ok], [channel.fileno()])


def _two(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    with socket.create_connection(servers.right) as right:
        socket.send_fds(channel, [ok], [right.fileno(), right.fileno()])


def _none(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    channel.send(ok)


def _garbage(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    channel.send(b"\xff{")


def _too_long(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    channel.send(ok + b" " * MAX_MESSAGE)


def _of_the_future(channel: socket.socket, ok: bytes, servers: Servers) -> None:
    channel.send(ok.replace(b'"version":1', b'"version":9'))


@pytest.mark.parametrize(
    ("lie", "error", "reason"),
    [
        (_elsewhere, EgressDeniedError, "the broker connected to 127.0.0.1 port"),
        (_unconnected, NetworkUnavailableError, "not connected by TCP"),
        (_pipe, NetworkUnavailableError, "no socket"),
        (_unix, NetworkUnavailableError, "not connected by TCP"),
        (_two, NetworkUnavailableError, "more than belongs to an answer"),
        (_none, NetworkUnavailableError, "sent no socket"),
        (_garbage, NetworkUnavailableError, "malformed"),
        (_too_long, NetworkUnavailableError, "more than belongs to an answer"),
        (_of_the_future, NetworkUnavailableError, "version 9"),
    ],
)
def test_a_keep_does_not_believe_its_broker(
    lie: Callable[[socket.socket, bytes, Servers], None], error: type[Exception], reason: str
) -> None:
    ok = msgspec.json.encode(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK))

    async def run() -> None:
        with (
            TemporaryDirectory(prefix="wk") as folder,
            socket.create_server(("127.0.0.1", 0)) as right,
            socket.create_server(("127.0.0.1", 0)) as wrong,
        ):
            path, servers = Path(folder) / "net.sock", Servers(right.getsockname(), wrong.getsockname())

            def be_the_broker() -> None:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                    listener.bind(str(path))
                    listener.listen()
                    channel, _ = listener.accept()
                    with channel:
                        channel.recv(MAX_MESSAGE)
                        lie(channel, ok, servers)

            lying = asyncio.create_task(asyncio.to_thread(be_the_broker))
            network = Network(policy_of([f"127.0.0.1:{servers.right[1]}+private"]), DIGEST, path, Events())
            with pytest.raises(error, match=reason):
                await network.connect(*servers.right)
            await lying

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_addresses_of_a_name_are_checked_again_by_the_other_end_of_the_connection() -> None:
    """The broker's spec says `private`, the keep's does not: whoever is right, the keep is not connected."""

    async def run() -> None:
        async with answering() as port:
            lax, strict = policy_of([f"name.test:{port}+private"]), policy_of([f"name.test:{port}"])
            async with brokered(lax, {"name.test": [("127.0.0.1",)]}, of_keep=strict) as keep:
                with pytest.raises(EgressDeniedError, match=r"127\.0\.0\.1 is loopback"):
                    await keep.network.connect("name.test", port)
                assert len(keep.denials()) == 1

    asyncio.run(run())
