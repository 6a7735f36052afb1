"""What belongs to one connection: its exporter, and whether it has been given evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from app_loader.errors import ExporterError
from app_loader.session import Session
from tests.unit.app_loader.handshakes import NONCE, Handshake, connected, server_context


def test_a_session_exports_for_the_label_of_evidence(tmp_path: Path) -> None:
    handshake = connected(server_context(tmp_path))
    assert Session(handshake.server).export(NONCE) == handshake.exported(b"EXPERIMENTAL keep-ra-v1", NONCE, 32)


def test_a_new_session_has_handed_out_no_evidence(tmp_path: Path) -> None:
    assert not Session(Handshake(server_context(tmp_path)).server).attested


def test_a_session_without_a_handshake_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExporterError):
        Session(Handshake(server_context(tmp_path)).server).export(NONCE)
