"""A server on 127.0.0.1 for protocols of key services: real HTTP, one handler function, all requests recorded."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients under test break off; that they do is for the tests to see."""


@contextlib.contextmanager
def serve(answer: Callable[[Request], Response], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL at which `answer` is asked, without a slash at its end; HTTPS with `tls`."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = answer(Request(self.command, self.path, headers, body))
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            # A client that has seen enough may be gone.
            with contextlib.suppress(OSError):
                self.wfile.write(response.body)

        do_GET = do_POST = do_PUT = _handle  # noqa: N815  # http.server names them

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no access log."""

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        # The handshake belongs to the connection's own thread: a client that refuses us must not end the server.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
