"""Services on the loopback interface that believe to be somewhere else: their TLS, and the way of a keep to them."""

from __future__ import annotations

import base64
import datetime
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app_loader.errors import AppLoaderError

BROKER = "kbs.example.org"
KMS = "kms.eu-central-1.amazonaws.com"
METADATA = "169.254.169.254"


class ServiceAuthority:
    """A root for the TLS of services."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "services")])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(usage, critical=True).add_extension(identifier, critical=False)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def roots(self) -> tuple[str, ...]:
        """As a spec names them."""
        return (base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode(),)

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def tls(self, folder: Path, host: str) -> ssl.SSLContext:
        """What the service of this name serves with."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(x509.Name([]), key).add_extension(names, critical=True)
        certificate = builder.add_extension(authority, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (path := folder / f"{host}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


class LoopbackConnector:
    """Stands in for a keep's network: connects to servers of tests by the names that these have for the keep."""

    def __init__(self, servers: Mapping[str, str]) -> None:
        """`servers` are URLs by host."""
        self._ports = {host: urlsplit(url).port for host, url in servers.items()}
        self.asked: list[tuple[str, int, str | None]] = []

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        self.asked.append((host, port, method))
        if host not in self._ports:
            raise AppLoaderError(f"no rule of the spec allows {host}")
        connected = socket.create_connection(("127.0.0.1", self._ports[host]))
        connected.setblocking(False)
        return connected
