"""How long clients may take: who is slow costs others nothing."""

from __future__ import annotations


class Deadlines:
    """Seconds that a client may take. Whoever is slower is closed."""

    def __init__(
        self,
        *,
        head: float = 10,
        chunk: float = 10,
        idle: float = 75,
        write: float = 60,
        linger: float = 2,
        close: float = 10,
    ) -> None:
        self.head = head
        """From the first byte of a request head, and from the handshake, to the end of that head."""
        self.chunk = chunk
        """From one chunk of a body to the next."""
        self.idle = idle
        """From a response to the next request."""
        self.write = write
        """For reading as much of a response as lets us send on: some 64 KiB."""
        self.linger = linger
        """For reading an answer that came before the body was sent."""
        self.close = close
        """For reading the end of the last response and leaving."""
