"""How a keep gets its socket and its configuration, and what it does about bad ones."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from keep_loader import handover
from keep_loader.errors import HandoverError
from keep_loader.notification import ServiceManager, stored_descriptors
from keep_protocol.handover import PROTOCOL_VERSION, Configuration, Handover, Hello

CONFIGURATION = Configuration(id="0" * 16, deployment="1" * 8, spec="{}", domain="example.org", names=())

Answer = Callable[[socket.socket], None]


@pytest.fixture
def host() -> Iterator[Path]:
    with TemporaryDirectory(prefix="wk") as folder:
        yield Path(folder)


@pytest.fixture
def notifications(host: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(host / "notify"))
        receiver.settimeout(5)
        yield receiver


def _configuration(content: bytes) -> int:
    descriptor = os.memfd_create("configuration")
    os.write(descriptor, content)
    return descriptor


def _manager(host: Path, answer: Answer) -> threading.Thread:
    """A manager that takes one hand-over request."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(host / "handover.sock"))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            hello = msgspec.json.decode(connection.recv(4096), type=Hello)
            assert (hello.version, hello.instance, hello.invocation) == (PROTOCOL_VERSION, "i", "life")
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def _send(connection: socket.socket, message: bytes, *descriptors: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
    connection.sendmsg([message], [rights] if descriptors else [])


def _take(host: Path, stored: dict[str, int] | None = None) -> handover.Received:
    if stored and handover.is_stored(stored):
        return handover.restore(stored)
    with contextlib.closing(ServiceManager(str(host / "notify"))) as service_manager:
        return handover.receive(handover.ask(host, "i", "life"), service_manager)


OK = msgspec.json.encode(Handover(version=PROTOCOL_VERSION, result="ok"))


def test_what_the_manager_hands_over_is_used_and_stored_over_restarts(host: Path, notifications: socket.socket) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    memfd = _configuration(msgspec.json.encode(CONFIGURATION))
    manager = _manager(host, lambda connection: _send(connection, OK, listener.fileno(), memfd))
    received = _take(host)
    manager.join()
    with received.listener as taken, listener:
        assert taken.getsockname() == listener.getsockname()
    assert received.configuration == CONFIGURATION
    assert received.devices == {}
    stored = [socket.recv_fds(notifications, 4096, 1) for _ in range(2)]
    assert [message for message, *_ in stored] == [
        b"FDSTORE=1\nFDNAME=listen",
        b"FDSTORE=1\nFDNAME=configuration\nFDPOLL=0",
    ]
    for _, descriptors, *_ in stored:
        os.close(descriptors[0])
    os.close(memfd)


def test_what_is_stored_is_used_without_a_manager(host: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stored = {"listen": os.dup(listener.fileno()), "configuration": _configuration(msgspec.json.encode(CONFIGURATION))}
    received = _take(host, stored)
    with received.listener as taken, listener:
        assert taken.getsockname() == listener.getsockname()
    assert received.configuration == CONFIGURATION
    os.close(stored["configuration"])


def test_a_device_is_stored_too_and_found_again_by_its_name(host: Path, notifications: socket.socket) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    memfd = _configuration(msgspec.json.encode(CONFIGURATION))
    ours, theirs = socket.socketpair()
    answer = msgspec.json.encode(Handover(version=PROTOCOL_VERSION, result="ok", devices=("tpm",)))
    manager = _manager(host, lambda connection: _send(connection, answer, listener.fileno(), memfd, theirs.fileno()))
    received = _take(host)
    manager.join()
    os.write(received.devices["tpm"], b"command")
    assert ours.recv(16) == b"command"
    stored = [socket.recv_fds(notifications, 4096, 1) for _ in range(3)]
    assert stored[2][0] == b"FDSTORE=1\nFDNAME=tpm\nFDPOLL=0"
    again = _take(host, {"listen": stored[0][1][0], "configuration": stored[1][1][0], "tpm": stored[2][1][0]})
    os.write(again.devices["tpm"], b"another")
    assert ours.recv(16) == b"another"
    for descriptor in (memfd, received.devices["tpm"], again.devices["tpm"], stored[1][1][0]):
        os.close(descriptor)
    for connection in (received.listener, again.listener, listener, ours, theirs):
        connection.close()


@pytest.mark.parametrize("devices", [("tpm",), ("camera",), ("tpm", "tpm")])
def test_devices_that_do_not_come_or_are_not_known_are_refused(host: Path, devices: tuple[str, ...]) -> None:
    answer = msgspec.json.encode(Handover(version=PROTOCOL_VERSION, result="ok", devices=devices))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        memfd = _configuration(b"{}")
        extra = [listener.fileno()] if devices == ("camera",) else []
        manager = _manager(host, lambda connection: _send(connection, answer, listener.fileno(), memfd, *extra))
        with pytest.raises(HandoverError, match="the manager sent"):
            _take(host)
        manager.join()
        os.close(memfd)


def test_without_a_manager_the_message_says_whom_to_start(host: Path) -> None:
    with pytest.raises(HandoverError, match="is the keep-manager running"):
        _take(host)


def test_a_refusal_is_told_with_its_reason(host: Path) -> None:
    refusal = msgspec.json.encode(Handover(version=PROTOCOL_VERSION, result="refused", reason="not starting"))
    manager = _manager(host, lambda connection: _send(connection, refusal))
    with pytest.raises(HandoverError, match="refused the hand-over: not starting"):
        _take(host)
    manager.join()


@pytest.mark.parametrize("message", [b"", b"{", b'{"version":1}', b'{"version":1,"result":"ok","more":1}'])
def test_a_malformed_answer_is_refused(host: Path, message: bytes) -> None:
    manager = _manager(host, lambda connection: _send(connection, message))
    with pytest.raises(HandoverError, match="malformed"):
        _take(host)
    manager.join()


def test_an_answer_without_descriptors_is_refused(host: Path) -> None:
    manager = _manager(host, lambda connection: _send(connection, OK))
    with pytest.raises(HandoverError, match="0 descriptors"):
        _take(host)
    manager.join()


def test_a_socket_that_does_not_listen_is_refused(host: Path) -> None:
    with socket.socket() as idle:
        configuration = _configuration(msgspec.json.encode(CONFIGURATION))
        stored = {"listen": os.dup(idle.fileno()), "configuration": configuration}
        with pytest.raises(HandoverError, match="does not listen"):
            _take(host, stored)
    os.close(configuration)


def test_a_malformed_configuration_is_refused(host: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stored = {"listen": os.dup(listener.fileno()), "configuration": _configuration(b'{"id":1}')}
    with listener, pytest.raises(HandoverError, match="configuration handed over is malformed"):
        _take(host, stored)
    for descriptor in stored.values():
        os.close(descriptor)


def test_descriptors_for_another_process_are_left_alone() -> None:
    assert stored_descriptors({"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "listen:configuration"}) == {}
    assert stored_descriptors({}) == {}
