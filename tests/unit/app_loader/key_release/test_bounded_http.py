"""HTTP to key services: whoever is at the other end, it costs a bounded amount of memory, and trusts nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_loader.key_release.bounded_http import MAX_HEADERS, MAX_REPLY_SIZE, HttpService, Reply, trust_of
from app_loader.key_release.errors import KeyServiceError
from keep_protocol.secret_requests import Address, address_of
from tests.unit.app_loader.key_release.services import BROKER, LoopbackConnector, ServiceAuthority
from tests.unit.keep_attestation.key_release.http_server import Request, Response, serve

PATIENCE = 20.0


@contextlib.contextmanager
def answering(*parts: bytes, end: bool = True) -> Iterator[str]:
    """A server that sends these bytes whatever it is asked; without `end` it keeps the connection open."""
    done = threading.Event()

    def work() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for part in parts:
                connection.sendall(part)
            if not end:
                done.wait(PATIENCE)
            # What is left unread when a socket is closed makes the kernel reset the connection, reply and all.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            thread.join(PATIENCE)


def ask(url: str, *, trust: ssl.SSLContext | None = None, path: str = "/x") -> Reply:
    address = address_of(f"https://{BROKER}/base")
    service = HttpService(LoopbackConnector({BROKER: url}), address, trust)

    async def exchange() -> Reply:
        async with asyncio.timeout(PATIENCE):
            return await service.exchange("POST", path, content=b"body", headers={"X-Name": "value"})

    return asyncio.run(exchange())


def test_a_request_goes_out_as_it_is_given_over_tls(tmp_path: Path) -> None:
    authority = ServiceAuthority()
    requests: list[Request] = []

    def answer(request: Request) -> Response:
        requests.append(request)
        return Response(201, b"reply", {"Set-Cookie": "a=b"})

    with serve(answer, authority.tls(tmp_path, BROKER)) as url:
        reply = ask(url, trust=trust_of(authority.roots))
    assert (reply.status, reply.content) == (201, b"reply")
    assert ("set-cookie", "a=b") in reply.headers
    (request,) = requests
    assert (request.method, request.path, request.body) == ("POST", "/base/x", b"body")
    assert request.headers["host"] == BROKER
    assert request.headers["x-name"] == "value"


def test_the_network_is_told_whom_the_request_is_for_and_its_method() -> None:
    connector = LoopbackConnector({})
    service = HttpService(connector, Address("h.example", 8443, "h.example:8443", ""), None)
    with pytest.raises(KeyServiceError, match=r"no rule of the spec allows h\.example"):
        asyncio.run(service.exchange("GET", "/"))
    assert connector.asked == [("h.example", 8443, "GET")]


def test_a_service_under_another_root_or_of_another_name_is_refused(tmp_path: Path) -> None:
    ours, theirs = ServiceAuthority(), ServiceAuthority()
    for tls, roots in (
        (theirs.tls(tmp_path, BROKER), ours.roots),
        (ours.tls(tmp_path, "other.example.org"), ours.roots),
        (ours.tls(tmp_path, BROKER), None),
    ):
        asked: list[Request] = []

        def answer(request: Request, asked: list[Request] = asked) -> Response:
            asked.append(request)
            return Response(200)

        with serve(answer, tls) as url, pytest.raises(KeyServiceError, match="not who it should be"):
            ask(url, trust=trust_of(roots))
        assert asked == []


def test_one_that_speaks_no_tls_is_refused() -> None:
    authority = ServiceAuthority()
    with serve(lambda _: Response(200)) as url, pytest.raises(KeyServiceError, match="TLS failed"):
        ask(url, trust=trust_of(authority.roots))


def test_the_environment_does_not_choose_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = ServiceAuthority()
    (path := tmp_path / "roots.pem").write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with (
        serve(lambda _: Response(200), authority.tls(tmp_path, BROKER)) as url,
        pytest.raises(KeyServiceError, match="not who it should be"),
    ):
        ask(url, trust=trust_of(None))


def test_roots_that_are_no_certificates_are_refused() -> None:
    with pytest.raises(KeyServiceError, match="cannot be used"):
        trust_of(("AAAA",))


def test_redirects_are_not_followed() -> None:
    reply = ask_plain(b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert reply.status == 307


def ask_plain(*parts: bytes, end: bool = True) -> Reply:
    with answering(*parts, end=end) as url:
        return ask(url)


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", bytes(MAX_REPLY_SIZE + 1)),
        (b"HTTP/1.1 200 OK\r\n\r\n", bytes(MAX_REPLY_SIZE + 1)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(b"%x\r\n%s\r\n" % (65536, bytes(65536)) for _ in range(MAX_REPLY_SIZE // 65536 + 1)),
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(MAX_HEADERS + 1)) + b"\r\n",),
    ],
)
def test_replies_without_end_are_cut_off(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(KeyServiceError, match="replied with more than"):
        ask_plain(*parts, end=False)


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nx: " + bytes([0x41]) * 65536,),
        (b"SSH-2.0-OpenSSH\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",),
        (b"",),
    ],
)
def test_what_is_no_whole_reply_is_refused_without_repeating_it(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(KeyServiceError, match=r"its reply is no HTTP/1\.1, or is cut short"):
        ask_plain(*parts)


def test_nobody_there_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(KeyServiceError, match="Connection refused"):
        ask(url)


def test_interim_replies_are_passed_over() -> None:
    assert ask_plain(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n").status == 204
