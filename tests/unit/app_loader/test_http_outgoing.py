"""Requests that a guest makes while it answers one: real servers, a policy of the test's own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError
from app_loader.http_service import HttpService
from app_loader.network import Network
from app_loader.trusted_roots import TrustedRoots
from keep_protocol.broker import BrokerResult
from tests.unit.app_loader.asking import request
from tests.unit.app_loader.execution_harness import Execution, execute, spec
from tests.unit.app_loader.http_keep import PROBE
from tests.unit.app_loader.test_http_hostile import body_of
from tests.unit.keep_client.certificates import Authority
from tests.unit.keep_net.brokered import brokered, policy_of

DNS_ERROR, CONNECTION_REFUSED, CERTIFICATE, DENIED = 1, 6, 13, 15
URI_INVALID, TIMEOUT, PROTOCOL, INTERNAL = 19, 33, 35, 38
"""Numbers of `error-code` cases; wasi:http/types."""

AUTHORITY = "service.example"


class AllowedNetwork:
    """Stands for the keep's network: connects what it allows to a server of the test."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked: list[tuple[str, int, str | None]] = []

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        self.asked.append((host, port, method))
        if host == "nowhere.example":
            raise HostUnreachableError("no such name", BrokerResult.NAME_NOT_FOUND)
        if host == "closed.example":
            raise HostUnreachableError("refused", BrokerResult.CONNECTION_REFUSED)
        if host == "broken.example":
            raise NetworkUnavailableError("no broker")
        if host not in (AUTHORITY, "127.0.0.1"):
            raise EgressDeniedError("not allowed")
        connected = socket.create_connection(("127.0.0.1", self._port))
        connected.setblocking(False)
        return connected


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("location", "http://denied.example/")
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.path == "/big":
            self.send_response(200)
            self.send_header("content-length", str(3_000_000))
            self.end_headers()
            self.wfile.write(b"x" * 3_000_000)
        else:
            body = f"{self.path} {self.headers['host']}".encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@contextlib.contextmanager
def server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        if context is not None:
            http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()
            thread.join()


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A server that says `reply` to its first client once it has asked, and hangs up; none at all says nothing."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.recv(65536)
                connected.sendall(reply)
                if not reply:
                    done.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


def fetched(state: Path, network: AllowedNetwork, roots: TrustedRoots | None = None, **headers: str) -> bytes:
    """What the guest says of its request."""

    async def scenario(keep: Execution) -> bytes:
        await keep.load(PROBE.read_bytes())
        http = HttpService(keep.runner, keep.workload, spec().limits, roots=roots)
        given = {"x-authority": AUTHORITY, "x-path": "/"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        asked = request("POST", "/v1/http/fetch", b"sent on", given)
        asked.fields = [(name.encode(), value.encode()) for name, value in given.items()]
        try:
            return await body_of(await http.answer(asked, lambda: cast(Network, network)))
        finally:
            http.close()

    return execute(state, scenario)


def test_a_request_reaches_its_server_and_its_response_the_guest(tmp_path: Path) -> None:
    with server() as port:
        network = AllowedNetwork(port)
        assert fetched(tmp_path, network, x_path="/a?b=c") == b"200 /a?b=c service.example"
    assert network.asked == [(AUTHORITY, 80, "GET")]


def test_a_port_is_asked_for_by_its_number(tmp_path: Path) -> None:
    with server() as port:
        network = AllowedNetwork(port)
        assert fetched(tmp_path, network, x_authority=f"{AUTHORITY}:8080") == b"200 / service.example:8080"
    assert network.asked == [(AUTHORITY, 8080, "GET")]


def test_bodies_stream_both_ways(tmp_path: Path) -> None:
    with server() as port:
        network = AllowedNetwork(port)
        assert fetched(tmp_path, network, x_post="yes") == b"200 sent on"
    assert network.asked[0][2] == "POST"


def test_a_response_longer_than_any_buffer_arrives_whole(tmp_path: Path) -> None:
    with server() as port:
        assert fetched(tmp_path, AllowedNetwork(port), x_path="/big") == b"200 " + b"x" * 3_000_000


def test_a_redirect_is_the_guests_own_business(tmp_path: Path) -> None:
    with server() as port:
        network = AllowedNetwork(port)
        assert fetched(tmp_path, network, x_path="/redirect") == b"302 "
    assert len(network.asked) == 1


@pytest.mark.parametrize(
    ("authority", "code"),
    [
        ("denied.example", DENIED),
        ("nowhere.example", DNS_ERROR),
        ("closed.example", CONNECTION_REFUSED),
        ("broken.example", INTERNAL),
    ],
)
def test_what_the_network_refuses_has_its_error_code(tmp_path: Path, authority: str, code: int) -> None:
    assert fetched(tmp_path, AllowedNetwork(1), x_authority=authority) == f"error {code}".encode()


@pytest.mark.parametrize("authority", ["user@service.example", "service.example/path", "", "a b", "service.example:x"])
def test_an_authority_that_is_none_is_refused_before_the_network_is_asked(tmp_path: Path, authority: str) -> None:
    network = AllowedNetwork(1)
    # As there is no authority then.
    assert fetched(tmp_path, network, x_authority=authority) == f"invalid error {URI_INVALID}".encode()
    assert network.asked == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", b"200 half"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"200 until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", b"204 "),
        (b"nonsense\r\n\r\n", f"error {PROTOCOL}".encode()),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, f"error {PROTOCOL}".encode()),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", f"error {PROTOCOL}".encode()),
        (b"", f"error {TIMEOUT}".encode()),
    ],
)
def test_what_a_server_answers_wrongly_is_the_guests_error(tmp_path: Path, reply: bytes, said: bytes) -> None:
    with answering(reply) as port:
        assert fetched(tmp_path, AllowedNetwork(port)) == said


def test_https_checks_the_server_against_the_roots(tmp_path: Path) -> None:
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.server().saved(tmp_path, "server").load_into(context)
    roots = tmp_path / "roots.pem"
    roots.write_text(authority.certificate)
    (state := tmp_path / "state").mkdir()
    (other := tmp_path / "other").mkdir()
    with server(context) as port:
        network = AllowedNetwork(port)
        said = fetched(state, network, TrustedRoots(roots), x_tls="yes", x_authority="127.0.0.1")
        assert said == b"200 / 127.0.0.1"
        assert fetched(other, network, x_tls="yes", x_authority="127.0.0.1") == f"error {CERTIFICATE}".encode()
    assert network.asked[0] == ("127.0.0.1", 443, "GET")


def test_without_a_network_every_request_is_denied(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> bytes:
        await keep.load(PROBE.read_bytes())
        http = HttpService(keep.runner, keep.workload, spec().limits)
        asked = request("GET", "/v1/http/fetch")
        asked.fields = [(b"x-authority", AUTHORITY.encode()), (b"x-path", b"/")]
        try:
            return await body_of(await http.answer(asked))
        finally:
            http.close()

    assert execute(tmp_path, scenario) == f"error {DENIED}".encode()


def test_an_answer_of_dns_that_changes_between_requests_is_checked_anew_and_used_once(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(PROBE.read_bytes())
        http = HttpService(keep.runner, keep.workload, spec().limits)
        policy = policy_of(allow=[f"{AUTHORITY}:{port}+private"], deny=["127.0.0.2/32:*"])
        async with brokered(policy, {AUTHORITY: [("127.0.0.1",), ("127.0.0.2",)]}) as net:

            async def fetch() -> bytes:
                given = {"x-authority": f"{AUTHORITY}:{port}", "x-path": "/"}
                asked = request("POST", "/v1/http/fetch", b"", given)
                asked.fields = [(name.encode(), value.encode()) for name, value in given.items()]
                return await body_of(await http.answer(asked, lambda: net.network))

            try:
                # Checked and connected to is one answer: the second one comes with the second request only.
                assert await fetch() == f"200 / {AUTHORITY}:{port}".encode()
                assert net.resolver.asked == [AUTHORITY]
                assert await fetch() == f"error {DENIED}".encode()
                assert [denial["host"] for denial in net.denials()] == [AUTHORITY]
            finally:
                http.close()

    with server() as port:
        execute(tmp_path, scenario)
