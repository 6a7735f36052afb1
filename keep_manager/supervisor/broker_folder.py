"""The folder of a keep's network broker: what it is told, and where its socket is."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from keep_protocol.broker import CONFIGURATION_NAME, SOCKET_FOLDER

_PARENT = "net"


class BrokerFolder:
    """`net/<instance>` below a supervisor's runtime folder.

    The folder around all of them is closed: keep and broker have theirs bound into their view by systemd, and nobody
    else gets to a socket.
    """

    def __init__(self, runtime: Path, instance: str) -> None:
        self.path = runtime / _PARENT / instance
        self.socket = self.path / SOCKET_FOLDER

    def write(self, configuration: bytes) -> None:
        """Make the folder, with this as `broker.json`, readable for users of their own."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path.mkdir(mode=0o711, exist_ok=True)
        temporary = self.path / f"{CONFIGURATION_NAME}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            # Whatever the umask is.
            os.fchmod(descriptor, 0o644)
            file.write(configuration)
        self.path.chmod(0o711)
        temporary.rename(self.path / CONFIGURATION_NAME)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_broker_folders(runtime: Path, deployment: str) -> None:
    """Remove those of all brokers of a deployment, none of which runs any more."""
    parent = runtime / _PARENT
    for folder in parent.glob(f"{deployment}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        parent.rmdir()
