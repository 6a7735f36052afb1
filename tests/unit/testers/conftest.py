"""A deployment, and programs that are run as users run them: as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.testers.doubles import FakeDeployment, deployment

CHECKOUT = Path(__file__).resolve().parents[3]

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDeployment]:
    home = tmp_path / "home"
    home.mkdir()
    with deployment(home) as running:
        yield running


def command(module: str, *arguments: str) -> list[str]:
    """The command line of one of our programs."""
    return [sys.executable, "-W", "error", "-m", module, *arguments]


def environment(home: Path | None) -> dict[str, str]:
    """Ours, with the home named as users may name it."""
    inherited = {name: value for name, value in os.environ.items() if name != "WASMKEEP_HOME"}
    return inherited | {"PYTHONPATH": str(CHECKOUT)} | ({} if home is None else {"WASMKEEP_HOME": str(home)})


@pytest.fixture
def program(fake: FakeDeployment, tmp_path: Path) -> Program:
    def run(module: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(module, *arguments),
            env=environment(fake.home),
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def keepctl(program: Program) -> Program:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return program("testers.keepctl", *arguments, stdin=stdin)

    return run


@pytest.fixture
def wasm(tmp_path: Path) -> Path:
    (file := tmp_path / "guest.wasm").write_bytes(b"\0asm\1\0\0\0")
    return file
