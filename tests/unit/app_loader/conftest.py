"""What keeps of tests leave in memory when they are killed goes with the test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_protocol.memory_folder import SHARED_MEMORY, memory_folder_of


@pytest.fixture(autouse=True)
def no_memory_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever removes a keep does this; these keeps have nobody."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        for state in (folder, *folder.glob("*/"), *folder.glob("*/*/")):
            shutil.rmtree(memory_folder_of(state, SHARED_MEMORY), ignore_errors=True)
