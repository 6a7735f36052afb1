"""The hand-over socket, with a real peer: whose process asks decides, not what it says."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from keep_manager.endpoints import bind_new
from keep_manager.handover import ALL_SEALS, HandoverRefusedError, HandoverServer, Offer
from keep_protocol.handover import Configuration, Handover, Hello

CONFIGURATION = Configuration("k", "d", "{}", "test.internal", ("127.0.0.1",))


def ask(path: Path, message: bytes) -> tuple[Handover | None, list[int]]:
    """What a process gets that sends `message`; None when it is hung up on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.send(message)
        answer, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
    return (msgspec.json.decode(answer, type=Handover) if answer else None), list(descriptors)


def served(
    folder: Path,
    message: bytes,
    *,
    instance: str | None = "d-k",
    offer: Callable[[Hello], Awaitable[Offer]] | None = None,
) -> tuple[Handover | None, list[int]]:
    """One exchange with a server for which we are `instance`."""

    async def instance_of(pid: int) -> str | None:
        return instance if pid == os.getpid() else None

    async def take(hello: Hello) -> Offer:
        return Offer(bind_new("127.0.0.1", None), CONFIGURATION)

    async def run() -> tuple[Handover | None, list[int]]:
        server = HandoverServer(folder / "handover.sock", instance_of, offer or take)
        await server.start()
        try:
            return await asyncio.to_thread(ask, folder / "handover.sock", message)
        finally:
            await server.close()

    return asyncio.run(run())


HELLO = msgspec.json.encode(Hello(1, "d-k", "a" * 32))


def test_the_keep_gets_a_listening_socket_and_a_sealed_configuration(folder: Path) -> None:
    answer, (listener, memory) = served(folder, HELLO)
    assert answer == Handover(1, "ok")
    with socket.socket(fileno=listener) as received:
        assert received.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) == ALL_SEALS
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(memory, b"x", 0)
    with os.fdopen(memory, "rb") as file:
        assert msgspec.json.decode(file.read(), type=Configuration) == CONFIGURATION


def test_the_manager_keeps_no_copy_of_the_socket(folder: Path) -> None:
    _, (listener, memory) = served(folder, HELLO)
    os.close(memory)
    address = socket.socket(fileno=os.dup(listener))
    endpoint = address.getsockname()
    address.close()
    os.close(listener)
    with socket.socket() as probe:
        assert probe.connect_ex(endpoint) != 0


@pytest.mark.parametrize("instance", [None, "d-other", "x-k"])
def test_another_process_gets_nothing(folder: Path, instance: str | None) -> None:
    answer, descriptors = served(folder, HELLO, instance=instance)
    assert answer is not None
    assert (answer.result, descriptors) == ("refused", [])


def test_a_keep_that_is_not_starting_gets_nothing(folder: Path) -> None:
    async def nothing(hello: Hello) -> Offer:
        raise HandoverRefusedError("it is not starting")

    answer, descriptors = served(folder, HELLO, offer=nothing)
    assert answer == Handover(1, "refused", "it is not starting")
    assert descriptors == []


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        b"{}",
        b"[]",
        HELLO + b"x",
        b"x" * 5000,
        b"[" * 4096,
        b'{"instance": "\xff"}',
        msgspec.json.encode(Hello(2, "d-k", "a")),
    ],
)
def test_a_message_that_is_no_hello_is_refused(folder: Path, message: bytes) -> None:
    answer, descriptors = served(folder, message)
    assert answer is not None
    assert (answer.result, descriptors) == ("refused", [])


def test_the_socket_is_gone_after_the_manager(folder: Path) -> None:
    served(folder, HELLO)
    assert not (folder / "handover.sock").exists()
