"""What the host of a machine carries: recorded on both sides of its forwarder, with a real guest, and held together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from keep_client import Credentials, KeepClient, new_spec
from keep_client.pins import KeepPin
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.multiplexed import MultiplexedChannel
from keep_protocol.keep_api import RunRequest
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec
from keep_protocol.states import AtRest, FileArea, RunState
from tests.guest_machine import KEEP_ID, GuestMachine, await_ready, configuration, running_machine
from tests.system.deployment import example, guest
from tests.system.frames import carried, tls_records
from tests.unit.app_loader.pki import Credential, self_signed

MEMORY = 320
AT_ONCE = 24
PATIENCE = 120.0
OUTPUT_LIMIT = 2 * 2**20
SMALL = 32 * 1024


class Tap:
    """A wire between two sockets that records what passes, by direction; it can be held up."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.peer = near.getpeername()
        self.forth = bytearray()
        self.back = bytearray()
        self._threads = [
            threading.Thread(target=_pour, args=(near, far, self.forth)),
            threading.Thread(target=_pour, args=(far, near, self.back)),
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def small_socket() -> socket.socket:
    """A TCP socket for which the kernel holds little."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    for size in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, size, SMALL)
    return made


def _pour(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            record += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class RecordedHost:
    """The keep-loader's forwarder, in a thread of its own, with taps before and behind it."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._inner, outer = socket.socketpair()
        self._outer = outer
        self.channel = Tap(outer, port)
        self.clients: list[Tap] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._entrance = socket.create_server(("127.0.0.1", 0), backlog=64)
        for listener in (self._listener, self._entrance):
            for size in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                # Inherited by their connections: the kernel would hold megabytes for a client that reads nothing.
                listener.setsockopt(socket.SOL_SOCKET, size, SMALL)
        self._listener.setblocking(False)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._serving = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._accepting = threading.Thread(target=self._accept)
        self._serving.start()
        self._ready.wait(PATIENCE)
        self._accepting.start()

    @property
    def endpoint(self) -> str:
        return "{}:{}".format(*self._entrance.getsockname())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        channel = MultiplexedChannel(self._inner)
        forwarder = Forwarder(self._listener, channel.dial)
        tasks = [asyncio.create_task(channel.run()), asyncio.create_task(forwarder.run())]
        self._ready.set()
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await forwarder.close()
        channel.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._entrance.accept()
                inner = small_socket()
                inner.connect(self._listener.getsockname())
                self._sockets += [client, inner]
                self.clients.append(Tap(client, inner))

    def settle(self) -> None:
        """Until every client's connection is over on both sides of its tap."""
        for tap in self.clients:
            tap.join()

    def close(self) -> None:
        for each in (self._entrance, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._accepting.join(PATIENCE)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._serving.join(PATIENCE)
        self._loop.close()
        for each in (self._outer, self._port):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.settle()
        self.channel.join()
        for each in (self._outer, self._port, self._listener):
            each.close()


@pytest.fixture(scope="module")
def owner() -> Credential:
    return self_signed()


@pytest.fixture(scope="module")
def spec(owner: Credential) -> KeepSpec:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, output=OUTPUT_LIMIT)
    return new_spec(principals=[owner.pinned()], limits=limits, at_rest=AtRest.PLAIN)


@pytest.fixture(scope="module")
def machine(guest_image: Path) -> Iterator[GuestMachine]:
    with running_machine(guest_image, memory=MEMORY) as machine:
        yield machine


@pytest.fixture(scope="module")
def certificate(machine: GuestMachine, spec: KeepSpec) -> str:
    machine.tell(configuration(spec))
    return await_ready(machine)


@pytest.fixture(scope="module")
def host(machine: GuestMachine, certificate: str) -> Iterator[RecordedHost]:
    host = RecordedHost(machine.data_port())
    yield host
    host.close()


@pytest.fixture
def credentials(owner: Credential, tmp_path: Path) -> Credentials:
    path = owner.write(tmp_path)
    return Credentials(path, path)


def connect(host: RecordedHost, certificate: str, credentials: Credentials) -> KeepClient:
    return KeepClient(host.endpoint, KeepPin.from_certificate(certificate), credentials=credentials)


def test_the_host_carries_ciphertext_byte_for_byte(
    host: RecordedHost, certificate: str, credentials: Credentials
) -> None:
    secret = b"a secret that no host may read " * 100
    wasm = example("echo").read_bytes()
    with connect(host, certificate, credentials) as client:
        client.load_workload(wasm)
        client.put_file(FileArea.INPUT, "letter", secret)
        assert b"".join(client.read_file(FileArea.INPUT, "letter")) == secret
        assert client.start_run(RunRequest(), wait=50).state is RunState.EXITED
    host.settle()

    forth, back = carried(bytes(host.channel.forth)), carried(bytes(host.channel.back))
    # What the clients sent is what the guest got, and the other way round, connection by connection.
    assert [forth[stream] for stream in sorted(forth)] == [bytes(tap.forth) for tap in host.clients]
    assert [back[stream] for stream in sorted(back)] == [bytes(tap.back) for tap in host.clients]
    for tap in host.clients:
        for direction in (tap.forth, tap.back):
            hello, *rest = tls_records(bytes(direction))
            assert hello == "handshake"
            assert set(rest) == {"change_cipher_spec", "application_data"}
    for recording in (host.channel.forth, host.channel.back):
        # Not even a name of what was asked for.
        for word in (secret[:31], wasm[:64], b"letter", b"/v1/", b"HTTP/1.1", b"spiffe:", b"-----BEGIN"):
            assert word not in recording


def test_many_connections_at_once_do_not_mix(host: RecordedHost, certificate: str, credentials: Credentials) -> None:
    def store_and_fetch(number: int) -> bool:
        content = os.urandom(20_000 + number)
        with connect(host, certificate, credentials) as client:
            client.put_file(FileArea.INPUT, f"file-{number}", content)
            return b"".join(client.read_file(FileArea.INPUT, f"file-{number}")) == content

    before = len(host.clients)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert list(threads.map(store_and_fetch, range(AT_ONCE))) == [True] * AT_ONCE
    assert len(host.clients) - before >= AT_ONCE


def test_clients_that_stall_hold_up_nobody_and_fill_no_memory(
    host: RecordedHost, certificate: str, credentials: Credentials
) -> None:
    content = os.urandom(4 * 2**20)
    with connect(host, certificate, credentials) as client, contextlib.ExitStack() as stack:
        client.put_file(FileArea.INPUT, "much", content)
        # One says nothing at all, one asks for much and reads nothing of it.
        address = host.endpoint.rpartition(":")
        silent = stack.enter_context(small_socket())
        silent.connect((address[0], int(address[2])))
        deaf = stack.enter_context(small_socket())
        deaf.connect((address[0], int(address[2])))
        own_address = deaf.getsockname()
        tls = stack.enter_context(encrypted(deaf, credentials))
        tls.sendall(b"GET /v1/files/input/much HTTP/1.1\r\nHost: keep\r\n\r\n")
        assert tls.recv(1)

        for _ in range(3):
            assert b"".join(client.read_file(FileArea.INPUT, "much")) == content
        (deaf_tap,) = (tap for tap in host.clients if tap.peer == own_address)
        assert len(deaf_tap.back) < len(content) // 2


def encrypted(connection: socket.socket, credentials: Credentials) -> ssl.SSLSocket:
    """TLS as a client that does not look whom it speaks to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(credentials.certificate, credentials.key)
    return context.wrap_socket(connection)


def test_a_workload_that_floods_its_output_ends_at_its_limit_and_others_are_served(
    host: RecordedHost, certificate: str, credentials: Credentials
) -> None:
    with connect(host, certificate, credentials) as client:
        client.load_workload(guest("flood"))
        flooding = client.start_run(RunRequest())
        with connect(host, certificate, credentials) as other:
            assert other.status().id == KEEP_ID
        assert client.wait_for_run(flooding.id).state is RunState.EXITED
        output = sum(len(piece) for piece in client.output(flooding.id, "stdout"))
    assert 0 < output <= OUTPUT_LIMIT
