"""Sockets for a process that can make none: over a channel, through the filters of a run."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from app_loader import seccomp
from app_loader.confinement import confine_to_itself
from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError, PortTakenError
from app_loader.network_channel import NetworkClient, network_channel, serve_network
from keep_protocol.broker import BrokerResult
from keep_protocol.egress.errors import EgressError
from keep_protocol.network_policy import NetworkPolicy
from tests.unit.keep_net.brokered import Brokered, answering, brokered, free_port, policy_of


def asked(policy: NetworkPolicy, ask: Callable[[NetworkClient], str], **answers: list[tuple[str, ...]]) -> str:
    """What `ask` comes to in a thread that has a client, with server and broker in an event loop."""

    async def run() -> str:
        names = {name.replace("_", "."): given for name, given in answers.items()}
        async with brokered(policy, names) as keep:
            server, client = network_channel()
            with server:
                serving = asyncio.create_task(serve_network(server, keep.network))
                try:
                    return await asyncio.to_thread(ask, NetworkClient(client))
                finally:
                    client.close()
                    await serving

    return asyncio.run(run())


def in_run(keep: Brokered, port: int) -> tuple[asyncio.Task[None], int, int]:
    """A forked process under the filters of a runner and of a run; it tells what it got through a pipe."""
    server, client = network_channel()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            seccomp.install(seccomp.runner_filter())
            confine_to_itself()
            try:
                socket.socket()
                told = "it can make a socket"
            except PermissionError:
                network = NetworkClient(client)
                with network.connect("127.0.0.1", port) as connection:
                    connection.setblocking(True)
                    told = connection.recv(100).decode()
                try:
                    network.connect("10.0.0.1", port)
                except EgressDeniedError as error:
                    told += f"; {error.rule}"
        except BaseException as error:
            told = repr(error)
        os.write(writer, told.encode())
        os._exit(0)
    client.close()
    os.close(writer)

    async def serve() -> None:
        with server:
            await serve_network(server, keep.network)

    return asyncio.create_task(serve()), reader, pid


@pytest.mark.skipif(not seccomp.known_machine(), reason="this machine's system calls are not known")
def test_a_run_that_can_make_no_sockets_gets_a_connection() -> None:
    async def run() -> str:
        async with answering() as port:
            rules = policy_of([f"127.0.0.1:{port}+private", f"10.0.0.0/8:{port}+private"], [f"10.0.0.1:{port}"])
            async with brokered(rules) as keep:
                serving, reader, pid = in_run(keep, port)
                with open(reader, "rb") as pipe:
                    told = await asyncio.to_thread(pipe.read)
                await serving
                await asyncio.to_thread(os.waitpid, pid, 0)
                assert len(keep.denials()) == 1
                return told.decode()

    assert asyncio.run(run()).startswith("127.0.0.1; deny[0] 10.0.0.1:")


def test_a_client_raises_what_the_network_raises() -> None:
    port = free_port()

    def ask(network: NetworkClient) -> str:
        with pytest.raises(EgressError, match="spelling of an address"):
            network.connect("0x7f.1", port)
        with pytest.raises(EgressError, match="not a port"):
            network.connect("127.0.0.1", 70000)
        with pytest.raises(EgressDeniedError, match="no rule") as denied:
            network.connect("example.com", port, "GET")
        assert denied.value.rule is None
        with pytest.raises(HostUnreachableError) as refused:
            network.connect("127.0.0.1", port)
        assert refused.value.result is BrokerResult.CONNECTION_REFUSED
        with pytest.raises(HostUnreachableError) as unknown:
            network.connect("unknown.test", port)
        assert unknown.value.result is BrokerResult.NAME_NOT_FOUND
        with network.bind(port) as listener:
            assert listener.getsockname() == ("127.0.0.1", port)
            with pytest.raises(PortTakenError):
                network.bind(port)
        with pytest.raises(EgressDeniedError):
            network.bind(1)
        return "done"

    rules = policy_of([f"127.0.0.1:{port}+private", f"unknown.test:{port}"], listen=[port])
    assert asked(rules, ask) == "done"


@pytest.mark.parametrize("message", [b"{", b"\xff", b'{"port":1,"surprise":1}', b'{"port":"1"}', b"[" * 5000])
def test_a_server_answers_what_is_no_request(message: bytes) -> None:
    async def run() -> None:
        async with brokered(policy_of()) as keep:
            server, client = network_channel()
            with server, client:
                serving = asyncio.create_task(serve_network(server, keep.network))
                client.setblocking(False)
                client.send(message)
                answer = await asyncio.get_running_loop().sock_recv(client, 10_000)
                assert b'"invalid"' in answer
                client.close()
                await serving

    asyncio.run(run())


def test_a_client_without_a_server_says_so(tmp_path: Path) -> None:
    server, client = network_channel()
    server.close()
    with client, pytest.raises(NetworkUnavailableError):
        NetworkClient(client).connect("127.0.0.1", 1)
