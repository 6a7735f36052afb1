"""Who we are, and where a deployment's home directory says its manager is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keep_client.errors import InvalidArgumentError
from keep_protocol.manager_api import ManagerFile
from keep_protocol.strict_json import decode_strictly


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files of a client certificate and its private key."""

    certificate: Path
    key: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let `context` present them. Raises `InvalidArgumentError`."""
        for path in (self.certificate, self.key):
            if not path.is_file():
                raise InvalidArgumentError(f"{path} does not exist: give your certificate and its key")
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgumentError(
                f"the certificate {self.certificate} and the key {self.key} cannot be used together: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class Home:
    """The home directory of a deployment on this machine."""

    path: Path

    def manager(self) -> ManagerFile:
        """Where its manager listens. Raises `InvalidArgumentError` when none has been started."""
        file = self.path / "manager.json"
        try:
            return decode_strictly(file.read_bytes(), ManagerFile)
        except FileNotFoundError:
            raise InvalidArgumentError(
                f"{file} does not exist: start the manager with `keep-manager serve --home {self.path}`"
            ) from None
        except OSError as error:
            raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise InvalidArgumentError(f"{file} is not what a manager writes: {error}") from error

    @property
    def operator(self) -> Credentials:
        """The first operator's certificate and key."""
        pki = self.path / "config" / "pki"
        return Credentials(pki / "operator.pem", pki / "operator.key")

    @property
    def client_ca(self) -> Path:
        """The CA that signs this deployment's clients."""
        return self.path / "config" / "pki" / "client-ca.pem"
