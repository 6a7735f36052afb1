"""HTTP of workloads in keeps of a real deployment: through the sandbox, the broker and the egress policy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.deployment import Deployment, eventually
from tests.system.test_network import free_port
from tests.unit.keep_client.certificates import Authority

REPOSITORY = Path(__file__).resolve().parents[2]
PROXY = REPOSITORY / "tests" / "guests" / "http" / "probe.wasm"
CGI = REPOSITORY / "examples" / "cgi" / "cgi.wasm"

CERTIFICATE_ERROR, DENIED = 13, 15
"""Numbers of `error-code` cases; wasi:http/types."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.path} for {self.headers['host']}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@contextlib.contextmanager
def web_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """An HTTP or HTTPS server on loopback; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        if context is not None:
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        # A client that does not trust the server hangs up; what the server says of it is not for the test's output.
        http.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()
            thread.join()


def fetched(deployment: Deployment, keep_id: str, authority: str, *headers: str) -> str:
    """What the proxy in the keep says of `http://AUTHORITY/some/path`."""
    given = (f"x-authority: {authority}", "x-path: /some/path", *headers)
    options = [word for header in given for word in ("-H", header)]
    return deployment.keepctl("http", keep_id, "/fetch", *options).stdout


def test_a_proxy_fetches_through_the_broker_what_the_spec_allows_and_nothing_else(
    deployment: Deployment, tmp_path: Path
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Authority().server().saved(tmp_path, "server").load_into(server)
    with web_server() as port, web_server() as other, web_server(server) as tls:
        rules = [f"127.0.0.1:{port},{tls}+private", f"localhost:{other}"]
        keep = deployment.create(*(word for rule in rules for word in ("--egress-allow", rule)))["id"]
        deployment.keepctl("load", keep, str(PROXY))
        assert fetched(deployment, keep, f"127.0.0.1:{port}") == f"200 /some/path for 127.0.0.1:{port}"
        # The connection comes about; that the host's authorities did not sign this server is TLS's business.
        assert fetched(deployment, keep, f"127.0.0.1:{tls}", "x-tls: yes") == f"error {CERTIFICATE_ERROR}"
        assert deployment.json("events", "--keep", keep) == []
        assert fetched(deployment, keep, f"127.0.0.1:{other}") == f"error {DENIED}"
        # The name is allowed, its address is not: the broker says so, which alone has seen it.
        assert fetched(deployment, keep, f"localhost:{other}") == f"error {DENIED}"
        first, second = deployment.json("events", "--keep", keep)
        assert (first["kind"], first["detail"]["port"], first["detail"]["method"]) == (
            "egress-denied",
            str(other),
            "GET",
        )
        assert (second["kind"], second["detail"]["host"]) == ("egress-denied", "localhost")
        assert "is loopback" in second["detail"]["reason"]
        deployment.keepctl("rm", keep)


def test_a_command_answers_everybody_at_a_port_of_its_own(fresh_deployment: Deployment, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "Keep.toml"
    file.write_text(f"[http]\nwagi = true\nport = {port}\npublic = true\n")
    keep = fresh_deployment.create("--config", str(file))["id"]
    fresh_deployment.keepctl("load", keep, str(CGI), "--config", str(file))
    assert f"{port}, for everybody: open" in fresh_deployment.keepctl("inspect", keep).stdout
    assert b"Hello from a command, whoever you are!" in public_answer(port, "/")
    fresh_deployment.keepctl("restart", keep)
    eventually(lambda: b"404" in public_answer(port, "/nothing").split(b"\r\n")[0])
    assert fresh_deployment.keepctl("http-log", keep).stdout == "GET /nothing: not found\n"
    fresh_deployment.keepctl("rm", keep)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def public_answer(port: int, path: str) -> bytes:
    """The whole answer to somebody without a certificate; nothing while nobody listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return b""
    with context.wrap_socket(connection) as wire, wire.makefile("rb") as received:
        wire.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n".encode())
        return received.read()
