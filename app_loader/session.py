"""What belongs to one TLS connection and to no other: its exporter, and whether evidence was given on it."""

from __future__ import annotations

import ssl


class Session:
    """The TLS session of one connection."""

    def __init__(self, connection: ssl.SSLObject, peer: str = "") -> None:
        self._connection = connection
        self.peer = peer
        """The client's address, as far as anybody tells."""
        self.attested = False
        """Whether evidence bound to this connection has been handed out on it."""

    def export(self, nonce: bytes) -> bytes:
        """The 32 bytes that evidence for `nonce` is bound to this connection by. Raises `ExporterError`."""
        # Imported here: only keeps that emit evidence ever need it.
        from app_loader.tls_exporter import export_keying_material
        from keep_protocol.evidence import EXPORTER_LABEL, EXPORTER_SIZE

        return export_keying_material(self._connection, EXPORTER_LABEL, nonce, EXPORTER_SIZE)
