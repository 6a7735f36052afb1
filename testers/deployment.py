"""Which manager a command talks to, and as whom: the options that all CLIs share."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keep_client import Credentials, Home, InvalidArgumentError, ManagerClient, ProblemError


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the command line and the environment say; nothing is read before it is needed."""

    home: Path | None
    url: str | None
    ca: Path | None
    certificate: Path | None
    key: Path | None
    client_ca: Path | None

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Deployment:
        """From the options that `add_connection_options` added, and WASMKEEP_HOME."""
        home = options.home or os.environ.get("WASMKEEP_HOME") or None
        return cls(
            home=None if home is None else Path(home).absolute(),
            url=options.manager,
            ca=options.ca,
            certificate=options.cert,
            key=options.key,
            client_ca=options.client_ca,
        )

    def credentials(self) -> Credentials:
        """Our certificate and key. Raises `InvalidArgumentError`."""
        if self.certificate is not None and self.key is not None:
            return Credentials(self.certificate, self.key)
        if self.certificate is not None or self.key is not None:
            raise InvalidArgumentError("--cert and --key belong together: give both")
        return self._home("--cert and --key").operator

    def connect(self) -> ManagerClient:
        """A client for the manager. Raises `InvalidArgumentError`."""
        url, ca = self.url, self.ca
        if url is None or ca is None:
            home = self._home("--manager and --ca")
            manager = home.manager()
            url, ca = url or manager.url, ca or home.path / manager.ca
        return ManagerClient(url, ca=ca, credentials=self.credentials())

    def client_ca_pem(self) -> str | None:
        """The certificate of the CA that signs clients, where one is at hand. Raises `InvalidArgumentError`."""
        path = self.client_ca
        if path is None:
            if self.home is None or not Home(self.home).client_ca.is_file():
                return None
            path = Home(self.home).client_ca
        return read_pem(path)

    def arguments(self) -> list[str]:
        """The options that make another command talk to the same manager as the same identity."""
        options = {
            "--home": self.home,
            "--manager": self.url,
            "--ca": self.ca,
            "--cert": self.certificate,
            "--key": self.key,
        }
        return [text for name, value in options.items() if value is not None for text in (name, str(value))]

    def _home(self, instead: str) -> Home:
        if self.home is None:
            raise InvalidArgumentError(f"no deployment is named: give --home (or WASMKEEP_HOME), or {instead}")
        if not self.home.is_dir():
            raise InvalidArgumentError(f"{self.home} is no home directory: make it with `keep-manager init`")
        return Home(self.home)


def add_connection_options(parser: argparse.ArgumentParser, *, default: Any = None) -> None:
    """`--home` and what can stand in its place."""
    group = parser.add_argument_group("connection")
    group.add_argument("--home", metavar="DIR", default=default, help="home of the deployment (or WASMKEEP_HOME)")
    group.add_argument("--manager", metavar="URL", default=default, help="https://HOST:PORT of the keep-manager")
    for name, text in (
        ("--cert", "your certificate (PEM)"),
        ("--key", "your private key (PEM)"),
        ("--ca", "CA of the manager's certificate (PEM)"),
        ("--client-ca", "CA that signed your certificate (PEM), for the specs of new keeps"),
    ):
        group.add_argument(name, metavar="FILE", type=Path, default=default, help=text)


def read_pem(path: Path) -> str:
    """A certificate file as text. Raises `InvalidArgumentError`."""
    try:
        return path.read_text("ascii")
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{path} is not a certificate in PEM") from None


def error_line(error: Exception) -> str:
    """An error as one line that says what to do."""
    if isinstance(error, ProblemError):
        field = f" ({error.field})" if error.field else ""
        remedy = f"; {error.remedy}" if error.remedy else ""
        return printable(f"{error.code}: {error.detail}{field}{remedy}")
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return printable(str(error) or type(error).__name__)


def printable(text: str) -> str:
    """`text` without control characters: a keep's words must not steer the terminal that shows them."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
