"""What this host's own certificates are: who is let in by them, and by what nobody is let into a TEE keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Trust:
    """What certificates are held against; replaced as a whole when the files change."""

    client_ca: bytes
    """DER, like the next."""
    server_ca: bytes
    """That of the manager's own certificate."""
    revoked: frozenset[int]
    """Serials. Connections that were open before a revocation are refused by them."""

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Every CA whose key is on this host."""
        return self.client_ca, self.server_ca
