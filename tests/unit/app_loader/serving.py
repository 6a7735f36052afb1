"""A keep's server on a loopback socket, in a thread with an event loop of its own, and a plain client for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app_loader.connection import Application
from app_loader.deadlines import Deadlines
from app_loader.identity import Identity
from app_loader.principals import Principals
from app_loader.revocation import CRL_FILE, Revocations
from app_loader.server import Server
from app_loader.tls import Trust
from keep_protocol.errors import Problem
from keep_protocol.spec import Principal
from tests.unit.app_loader.pki import Credential

PATIENCE = 20.0
"""Seconds after which a test that waits for the server fails."""


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Problem:
        assert self.headers["content-type"] == "application/problem+json"
        return msgspec.json.decode(self.body, type=Problem)


class Wire:
    """One TLS connection, written to byte by byte as a test likes."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket = connection
        self._reader = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a whole request and read its response."""
        lines = [f"{method} {path} HTTP/1.1", "host: keep"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return self.answer(bodiless=method == "HEAD")

    def answer(self, *, bodiless: bool = False) -> Answer:
        status_line = self._reader.readline()
        if not status_line:
            raise EOFError("the server closed the connection")
        headers = {}
        while line := self._reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = b"" if bodiless else self._body(headers)
        return Answer(int(status_line.split()[1]), headers, body)

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self.chunk, b""))
        if "content-length" in headers:
            size = int(headers["content-length"])
            body = self._reader.read(size)
            if len(body) < size:
                raise EOFError(f"{size} bytes were announced, {len(body)} came")
            return body
        return b""

    def chunk(self) -> bytes:
        """The next chunk of a response that is streamed; empty at its end."""
        line = self._reader.readline()
        if not line:
            raise EOFError("the server closed the connection within a response")
        size = int(line, 16)
        data = self._reader.read(size)
        self._reader.readline()
        return data

    def head(self) -> int:
        """Read the head of a response that is streamed; its status."""
        status = int(self._reader.readline().split()[1])
        while self._reader.readline().strip():
            pass
        return status

    def rest(self) -> bytes:
        """Everything until the server closes."""
        return self._reader.read()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


class Serving:
    """A server for some principals; a context manager."""

    def __init__(
        self,
        folder: Path,
        principals: Sequence[Principal],
        application: Application,
        *,
        deadlines: Deadlines | None = None,
        handshake_seconds: float = PATIENCE,
        max_connections: int = 64,
    ) -> None:
        self.folder = folder
        self.identity = Identity("0123456789abcdef", "example.org", ("localhost", "127.0.0.1"))
        self.crl = folder / CRL_FILE
        self._principals = Principals(principals, Revocations(self.crl))
        self._application = application
        self._deadlines = deadlines
        self._handshake_seconds = handshake_seconds
        self._max_connections = max_connections
        self._wires: list[Wire] = []
        self._started = threading.Event()
        self._stopped: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.server: Server

    def __enter__(self) -> Serving:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        for wire in self._wires:
            wire.close()
        self._listener.close()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self.server = Server(
            self._application,
            Trust(self.identity, self._principals),
            self._principals,
            deadlines=self._deadlines,
            handshake_seconds=self._handshake_seconds,
            max_connections=self._max_connections,
        )
        self.server.start(self._listener)
        self._started.set()
        await self._stopped.wait()
        await self.server.close()

    def wait_until_empty(self) -> None:
        """Wait until no client is connected any more."""

        async def empty() -> None:
            while self.server._connections:
                await asyncio.wait([connection.lost for connection in self.server._connections])

        asyncio.run_coroutine_threadsafe(empty(), self.loop).result(PATIENCE)

    def tcp(self) -> socket.socket:
        """A connection without TLS; the caller closes it."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def context(self, credential: Credential | None) -> ssl.SSLContext:
        """A client's context that trusts exactly the keep's certificate, and checks names and RFC 5280 strictly."""
        context = ssl.create_default_context(cadata=self.identity.certificate)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        if credential is not None:
            context.load_cert_chain(credential.write(self.folder))
        return context

    def connect(self, credential: Credential | None) -> Wire:
        """A TLS connection; closed with the server at the latest."""
        connection = self.context(credential).wrap_socket(self.tcp(), server_hostname="localhost")
        wire = Wire(connection)
        self._wires.append(wire)
        return wire

    def refusal(self, credential: Credential | None) -> str:
        """OpenSSL's name of the alert with which the server refuses a client. Fails when it does not."""
        with contextlib.closing(self.connect_anyhow(credential)) as connection:
            try:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: keep\r\n\r\n")
                connection.recv(1)
            except ssl.SSLError as error:
                return error.reason or str(error)
        raise AssertionError("the server accepted this client")

    def connect_anyhow(self, credential: Credential | None) -> ssl.SSLSocket:
        """In TLS 1.3 a client is connected before it knows whether it is welcome."""
        return self.context(credential).wrap_socket(self.tcp(), server_hostname="localhost")


def until_closed(connection: socket.socket) -> bytes:
    """What the server still sends before it closes `connection`, which is closed here too."""
    received = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received
