"""Handshakes between Python's `ssl` and pyOpenSSL without a network, step by step."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from keep_protocol.evidence import EXPORTER_LABEL
from tests.unit.app_loader.pki import self_signed

NONCE = bytes(range(32))


class Handshake:
    """A server of Python's `ssl` and a client of pyOpenSSL, with nothing but memory between them."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(self._to_server, self._to_client, server_side=True)
        self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.client.set_connect_state()

    def begin(self) -> None:
        """The client's first flight, and the server's answer, which is not delivered."""
        self._client_goes_on()
        with pytest.raises(ssl.SSLWantReadError):
            self.server.do_handshake()

    def finish(self) -> None:
        self.client.bio_write(self._to_client.read())
        self._client_goes_on()
        self.server.do_handshake()

    def _client_goes_on(self) -> None:
        with suppress(SSL.WantReadError):
            self.client.do_handshake()
        self._to_server.write(self.client.bio_read(65536))

    def exported(self, label: bytes = EXPORTER_LABEL, context: bytes = NONCE, size: int = 32) -> bytes:
        """What the client exports."""
        material: bytes = self.client.export_keying_material(label, size, context)
        return material


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(self_signed().write(folder))
    return context


def connected(context: ssl.SSLContext) -> Handshake:
    handshake = Handshake(context)
    handshake.begin()
    handshake.finish()
    return handshake
