"""A manufacturer of our own, on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.keep_attestation.endorsement_sources.manufacturer import Manufacturer, serving


@pytest.fixture
def manufacturer(tmp_path: Path) -> Iterator[Manufacturer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with serving(folder) as server:
        yield server
