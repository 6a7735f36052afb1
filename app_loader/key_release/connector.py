"""The seam to the network, of which a keep has none of its own."""

from __future__ import annotations

import socket
from typing import Protocol


class Connector(Protocol):
    """Makes connections that the keep's spec allows."""

    async def connect(self, host: str, port: int, *, method: str | None = None) -> socket.socket:
        """A connected, non-blocking TCP socket. Raises `AppLoaderError` for what is not allowed, or `OSError`."""
        ...
