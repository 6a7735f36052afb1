"""Keying material of Python's own TLS connections, compared with what OpenSSL's API gives the other end."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app_loader.errors import ExporterError
from app_loader.tls_exporter import export_keying_material
from keep_protocol.evidence import EXPORTER_LABEL
from tests.unit.app_loader.handshakes import NONCE, Handshake, connected, server_context


@pytest.mark.parametrize(
    ("label", "context", "size"),
    [(EXPORTER_LABEL, NONCE, 32), (EXPORTER_LABEL, b"", 32), (b"EXPERIMENTAL another", NONCE, 1), (b"L", NONCE, 255)],
)
def test_both_ends_of_a_connection_export_the_same(tmp_path: Path, label: bytes, context: bytes, size: int) -> None:
    handshake = connected(server_context(tmp_path))
    exported = export_keying_material(handshake.server, label, context, size)
    assert len(exported) == size
    assert exported == handshake.exported(label, context, size)


def test_both_ends_agree_after_another_context_was_swapped_in_during_the_handshake(tmp_path: Path) -> None:
    listening, newest = server_context(tmp_path), server_context(tmp_path)

    def swap(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = newest

    listening.sni_callback = swap
    handshake = connected(listening)
    assert handshake.server.context is newest
    assert export_keying_material(handshake.server, EXPORTER_LABEL, NONCE, 32) == handshake.exported()


def test_another_connection_exports_something_else(tmp_path: Path) -> None:
    context = server_context(tmp_path)
    one, other = connected(context), connected(context)
    assert export_keying_material(one.server, EXPORTER_LABEL, NONCE, 32) != other.exported()


def test_another_nonce_exports_something_else(tmp_path: Path) -> None:
    handshake = connected(server_context(tmp_path))
    assert export_keying_material(handshake.server, EXPORTER_LABEL, bytes(32), 32) != handshake.exported()


def test_nothing_is_exported_before_the_handshake_begins(tmp_path: Path) -> None:
    with pytest.raises(ExporterError, match="its handshake is not over"):
        export_keying_material(Handshake(server_context(tmp_path)).server, EXPORTER_LABEL, NONCE, 32)


def test_nothing_is_exported_by_a_client_before_the_handshake_is_over() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ExporterError, match="its handshake is not over"):
        export_keying_material(client, EXPORTER_LABEL, NONCE, 32)


@pytest.mark.parametrize("connection", [object(), SimpleNamespace(_sslobj=None), SimpleNamespace(_sslobj=object())])
def test_what_is_no_connection_is_refused(connection: object) -> None:
    with pytest.raises(ExporterError, match="no connection of the ssl module"):
        export_keying_material(cast(ssl.SSLObject, connection), EXPORTER_LABEL, NONCE, 32)


def test_an_object_whose_context_lies_elsewhere_is_refused_before_its_pointer_is_used(tmp_path: Path) -> None:
    handshake = connected(server_context(tmp_path))
    # As an interpreter would look that lays out its connections in another way.
    disguised = SimpleNamespace(_sslobj=handshake.server._sslobj, context=server_context(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(ExporterError, match="lays out TLS connections in a way that is not known"):
        export_keying_material(cast(ssl.SSLObject, disguised), EXPORTER_LABEL, NONCE, 32)
