"""Real reports, quotes and documents for fakes to answer with: from the folder that `WASMKEEP_VECTORS` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def vector(name: str) -> bytes:
    """The file `name` of the folder; skips the test where there is none."""
    folder = os.environ.get("WASMKEEP_VECTORS")
    if not folder:
        pytest.skip("WASMKEEP_VECTORS names no folder with attestation vectors")
    return (Path(folder) / name).read_bytes()
