"""Small real TLS servers on 127.0.0.1: one that records what it is sent, one that answers HTTP."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from keep_protocol.errors import PROBLEM_MEDIA_TYPE, ErrorCode, RefusalError
from tests.unit.keep_client.certificates import Pair


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; `path` is not decoded, `identity` is the client's certificate (DER)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    identity: bytes | None
    port: int = field(default=0, compare=False)
    """The client's, which tells connections apart."""

    @property
    def segments(self) -> tuple[str, ...]:
        """The decoded segments of the path."""
        return tuple(map(unquote, self.path.split("/")[1:]))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. A body that is no bytes is streamed; `cut_off` closes the connection where its end should be."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut_off: bool = False


def json_reply(value: Any, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(status, msgspec.json.encode(value))


def problem_reply(code: ErrorCode, detail: str, *, remedy: str | None = None, field: str | None = None) -> Reply:
    """A problem document."""
    problem = RefusalError(code, detail, remedy=remedy, field=field).problem()
    return Reply(problem.status, msgspec.json.encode(problem), PROBLEM_MEDIA_TYPE)


Respond = Callable[[Received], Reply]


def server_context(pair: Pair, folder: Path, *, client_ca: str | None = None) -> ssl.SSLContext:
    """TLS as a keep or a manager does it; with `client_ca` (PEM) clients need a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pair.saved(folder, "server").load_into(context)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class ApiServer(ThreadingHTTPServer):
    """HTTP/1.1 over TLS; `respond` makes the answers and may be exchanged while it serves."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext, respond: Respond, *, port: int = 0) -> None:
        self.context = context
        self.respond = respond
        self.received: list[Received] = []
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _ApiHandler)

    @property
    def endpoint(self) -> str:
        """`ADDRESS:PORT`"""
        return f"127.0.0.1:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, so that a slow client does not block the others."""
        connection = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._open.add(connection)
        with contextlib.suppress(OSError), connection:
            try:
                if _shake_hands(connection):
                    _ApiHandler(connection, client_address, self)
            finally:
                self._open.discard(connection)

    def hang_up(self) -> None:
        """Cut all connections off, as a process that dies does."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of our business; anything else is told by the client's own failure."""


def _shake_hands(connection: ssl.SSLSocket) -> bool:
    try:
        connection.do_handshake()
    except ssl.SSLError:
        # Closing with unread data sends a reset, and that may overtake the alert.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        return False
    return True


class _ApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def handle_expect_100(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        assert isinstance(self.server, ApiServer)
        assert isinstance(self.connection, ssl.SSLSocket)
        parts = urlsplit(self.path)
        received = Received(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in self.headers.items()},
            b"".join(self._body()),
            self.connection.getpeercert(binary_form=True),
            self.client_address[1],
        )
        self.server.received.append(received)
        self._send(self.server.respond(received))

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("content-length", "0")))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.media_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            length = len(reply.body) + (1 if reply.cut_off else 0)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in reply.body:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if not reply.cut_off:
                self.wfile.write(b"0\r\n\r\n")
        self.close_connection = self.close_connection or reply.cut_off


class _RecordingHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, RecordingServer)
        try:
            with self.server.context.wrap_socket(self.request, server_side=True) as connection:
                while data := connection.recv(65536):
                    self.server.recorded += data
        except OSError:
            pass
        finally:
            self.server.finished.release()


class RecordingServer(socketserver.ThreadingTCPServer):
    """Records every application byte of every connection and answers nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.recorded = b""
        self.finished = threading.Semaphore(0)
        """Released at the end of each connection."""
        super().__init__(("127.0.0.1", 0), _RecordingHandler)

    @property
    def endpoint(self) -> str:
        """`ADDRESS:PORT`"""
        return f"127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread for as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        if isinstance(server, ApiServer):
            server.hang_up()
        server.server_close()
