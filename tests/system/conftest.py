"""Deployments on real supervisors: one for tests that leave it as they found it, fresh ones for the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keep_image.build import build_image
from keep_image.errors import PackageError
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import load_pins
from tests.system.deployment import Deployment, eventually, private_problem, running

SUPERVISORS = ("private", "detached")


@pytest.fixture(scope="session", params=SUPERVISORS)
def supervisor(request: pytest.FixtureRequest) -> str:
    """The name of a supervisor that works here."""
    name: str = request.param
    if name == "private" and (reason := private_problem()):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def deployment(supervisor: str) -> Iterator[Deployment]:
    """A running deployment that many tests share; none of them may harm it."""
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor) as new:
        yield new


@pytest.fixture
def fresh_deployment(supervisor: str) -> Iterator[Deployment]:
    """A running deployment of one test's own, which may kill what it wants."""
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor) as new:
        yield new


@pytest.fixture(scope="session")
def machine_deployment(supervisor: str, guest_image: Path) -> Iterator[Deployment]:
    """A running deployment whose machines boot the guest image, for many tests; none of them may harm it."""
    image = bootable(guest_image)
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor, image) as new:
        yield new


@pytest.fixture
def fresh_machine_deployment(supervisor: str, guest_image: Path) -> Iterator[Deployment]:
    """The same for one test, which may kill what it wants."""
    image = bootable(guest_image)
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor, image) as new:
        yield new


def bootable(image: Path) -> Path:
    """The same image; skips where there is no QEMU for it."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed: apt-get install qemu-system-x86")
    return image


@contextmanager
def small_file_system(size: str) -> Iterator[Path]:
    """The folder of a file system of this size ("32m"), in memory, which can be filled; skips where none is made."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    with tempfile.TemporaryDirectory(prefix="wk") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "wasmkeep-test", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("no file system can be mounted here")
        try:
            yield Path(folder)
        finally:
            # Processes that were killed hold it for a moment longer.
            eventually(lambda: subprocess.run(["umount", folder], check=False).returncode == 0)


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a guest image, which nobody may change; skips where none can be made."""
    folder = tmp_path_factory.mktemp("image")
    try:
        build_image(folder, load_pins(), PackageStore(default_cache()))
    except PackageError as error:
        pytest.skip(f"no image can be built here: {error}")
    return folder
