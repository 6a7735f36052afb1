"""A real HTTPS server on this machine that answers as the manufacturers' services do, from given bytes."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keep_attestation.endorsement_sources.https_fetch import HttpsFetch


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0
    """Seconds before each byte of the body."""


@dataclass(frozen=True, slots=True)
class Manufacturer:
    host: str
    """With its port."""
    answers: dict[str, Answer]
    """By path and query; others are 404."""
    asked: list[str]
    context: ssl.SSLContext
    """Trusts this server alone."""

    @property
    def base(self) -> str:
        return f"https://{self.host}"

    def fetch(self) -> HttpsFetch:
        return HttpsFetch(hosts={self.host}, context=self.context, timeout=5)


@contextmanager
def serving(folder: Path) -> Iterator[Manufacturer]:
    """A server while the block runs; its key and certificate are written to `folder`."""
    answers: dict[str, Answer] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(self.path, Answer(status=404))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for piece in (
                    (answer.body[i : i + 1] for i in range(len(answer.body))) if answer.pause else (answer.body,)
                ):
                    time.sleep(answer.pause)
                    self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            pass

    certificate, key = _write_identity(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    server.socket = server_context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        yield Manufacturer(f"127.0.0.1:{server.server_port}", answers, asked, context)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _write_identity(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "manufacturer")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "server.pem", folder / "server.key"
    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_path, key_path
