"""What tests of all kinds share because it takes long to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_client.python_runtime.building import build_runtime


@pytest.fixture(scope="session")
def python_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CPython as a component, which nobody may change."""
    return build_runtime(tmp_path_factory.mktemp("runtime"))
