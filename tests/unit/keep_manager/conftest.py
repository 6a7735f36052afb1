"""Homes and served managers for the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_manager.config import Home, load_settings
from tests.unit.keep_manager.fake_supervisor import FakeSupervisor
from tests.unit.keep_manager.running import Running, make_home, running


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: Unix sockets are made in it."""
    path = Path(tempfile.mkdtemp(prefix="wk"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> Home:
    return make_home(folder / "home")


@pytest.fixture
def supervisor(folder: Path) -> FakeSupervisor:
    return FakeSupervisor(folder)


@pytest.fixture
def manager(home: Home, supervisor: FakeSupervisor) -> Iterator[Running]:
    with running(home, load_settings(home), supervisor) as served:
        yield served
