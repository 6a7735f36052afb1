"""Deployments on real supervisors: one for tests that leave it as they found it, fresh ones for the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_image.build import build_image
from keep_image.errors import PackageError
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import load_pins
from tests.system.deployment import Deployment

SUPERVISORS = ("private", "detached")


def _private_works() -> str | None:
    """Why a private systemd cannot run here, or None."""
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup", os.W_OK):
        return None
    return "a private systemd needs a cgroup that this user may write to"


@pytest.fixture(scope="session", params=SUPERVISORS)
def supervisor(request: pytest.FixtureRequest) -> str:
    """The name of a supervisor that works here."""
    name: str = request.param
    if name == "private" and (reason := _private_works()):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def deployment(supervisor: str) -> Iterator[Deployment]:
    """A running deployment that many tests share; none of them may harm it."""
    with tempfile.TemporaryDirectory(prefix="wk") as home:
        yield from _running(Path(home) / "home", supervisor)


@pytest.fixture
def fresh_deployment(supervisor: str) -> Iterator[Deployment]:
    """A running deployment of one test's own, which may kill what it wants."""
    with tempfile.TemporaryDirectory(prefix="wk") as home:
        yield from _running(Path(home) / "home", supervisor)


def _running(home: Path, supervisor: str) -> Iterator[Deployment]:
    deployment = Deployment(home, supervisor)
    deployment.init()
    deployment.serve()
    try:
        yield deployment
    finally:
        deployment.down()


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a guest image; skips where machines or images cannot be made."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed: apt-get install qemu-system-x86")
    folder = tmp_path_factory.mktemp("image")
    try:
        build_image(folder, load_pins(), PackageStore(default_cache()))
    except PackageError as error:
        pytest.skip(f"no image can be built here: {error}")
    return folder
