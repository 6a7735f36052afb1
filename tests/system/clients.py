"""Clients of a real deployment that need not be well-behaved: with other certificates, TLS versions and paths."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization

from keep_manager.pki import PkiPaths, issue_client, load_authority, load_certificate
from tests.system.deployment import Deployment

JSON = {"content-type": "application/json"}
WASM = {"content-type": "application/wasm"}


@dataclass(frozen=True)
class Identity:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Server:
    """A manager or a keep: where it listens, and the certificate that vouches for it."""

    address: tuple[str, int]
    trusted: str

    def context(self, who: Identity | None) -> ssl.SSLContext:
        """A client's context that trusts nobody else."""
        context = ssl.create_default_context(cadata=self.trusted)
        if who is not None:
            context.load_cert_chain(who.certificate, who.key)
        return context

    def http(self, who: Identity) -> httpx.Client:
        """An HTTP client; the caller closes it."""
        url = f"https://{self.address[0]}:{self.address[1]}"
        return httpx.Client(base_url=url, verify=self.context(who), timeout=60, trust_env=False)

    def connect(self) -> socket.socket:
        """A connection on which nobody speaks yet; the caller closes it."""
        return socket.create_connection(self.address, timeout=30)

    def raw(self, who: Identity, request: bytes) -> bytes:
        """What comes back for these bytes, up to the end of the connection."""
        with self.context(who).wrap_socket(self.connect(), server_hostname=self.address[0]) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def refusal(self, context: ssl.SSLContext) -> str | None:
        """The reason of the TLS alert with which it refuses a client, or None when it answers."""
        try:
            with context.wrap_socket(self.connect(), server_hostname=self.address[0]) as connection:
                connection.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert connection.recv(1)
        except ssl.SSLError as error:
            return error.reason
        return None


def manager_of(deployment: Deployment) -> Server:
    """The manager of a deployment."""
    told = json.loads((deployment.home / "manager.json").read_text())
    return Server(_address(told["url"].removeprefix("https://")), Path(told["ca"]).read_text())


def endpoint_of(keep: Mapping[str, Any]) -> Server:
    """A keep as `keepctl create --json` describes it."""
    return Server(_address(keep["endpoint"]), keep["certificate"])


def operator_of(home: Path) -> Identity:
    """Whom `keep-manager init` made."""
    return Identity(home / "config" / "pki" / "operator.pem", home / "config" / "pki" / "operator.key")


def issue(deployment: Deployment, folder: Path, name: str, *options: str) -> Identity:
    """An identity as people get one: a request, signed by the operator."""
    domain = "wasmkeep.internal"
    deployment.keepctl("identity", "new", name, "--domain", domain, "--out", str(folder))
    files = {suffix: folder / f"{name}.{suffix}" for suffix in ("csr", "pem", "key")}
    home = ("--home", str(deployment.home))
    deployment.run(
        "keep-manager", "issue", name, *home, "--csr", str(files["csr"]), "--out", str(files["pem"]), *options
    )
    return Identity(files["pem"], files["key"])


def expired_operator(deployment: Deployment, folder: Path) -> Identity:
    """The operator with a certificate that was good until a minute ago."""
    paths = PkiPaths(deployment.home / "config" / "pki")
    operator = operator_of(deployment.home)
    certificate = issue_client(
        load_authority(paths.client_ca),
        load_certificate(operator.certificate).public_key(),  # type: ignore[arg-type]
        name="operator",
        domain="wasmkeep.internal",
        lifetime=timedelta(minutes=-1),
    )
    file = folder / "expired.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Identity(file, operator.key)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)
