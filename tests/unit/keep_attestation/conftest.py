"""Real evidence from real hardware, kept outside the repository: the folder that `WASMKEEP_VECTORS` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors() -> Path:
    folder = os.environ.get("WASMKEEP_VECTORS")
    if not folder:
        pytest.skip("WASMKEEP_VECTORS names no folder with attestation vectors")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"WASMKEEP_VECTORS names {path}, which is no folder")
    return path
