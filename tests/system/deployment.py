"""A whole deployment for tests: a home, its manager as a process, and the CLIs as a user calls them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
GUESTS = ROOT / "tests" / "guests"

GUEST_MEMORY = "320M"
"""Of machines in tests: enough for the guest image and small workloads."""

_START_TIMEOUT = 60.0


def example(name: str) -> Path:
    """The `.wasm` of an example."""
    return EXAMPLES / name / f"{name}.wasm"


def guest(name: str) -> Path:
    """The `.wasm` of a test guest."""
    return GUESTS / f"{name}.wasm"


def private_problem() -> str | None:
    """Why a private systemd cannot run here, or None."""
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup", os.W_OK):
        return None
    return "a private systemd needs a cgroup that this user may write to"


MACHINES_UNDER = "detached" if private_problem() else "private"
"""The supervisor of tests for which one is enough, because they boot machines."""

one_supervisor = pytest.mark.parametrize("supervisor", [MACHINES_UNDER], indirect=True, scope="session")
"""For what takes long and does not depend on who supervises it."""


def eventually(condition: Callable[[], Any], *, timeout: float = 30.0) -> Any:
    """Wait until `condition` gives something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {condition}")
        time.sleep(0.05)
    return value


class Deployment:
    """One home and its manager."""

    def __init__(self, home: Path, supervisor: str) -> None:
        self.home = home
        self.supervisor = supervisor
        self.manager: subprocess.Popen[str] | None = None

    def init(self, *arguments: str) -> None:
        """`keep-manager init`."""
        self.run("keep-manager", "init", "--home", str(self.home), *arguments)

    def use_image(self, image: Path) -> None:
        """Let machines boot this guest image; before `serve`."""
        settings = self.home / "config" / "wasmkeep.toml"
        settings.write_text(re.sub("^# image = .*$", f'image = "{image}"', settings.read_text(), flags=re.MULTILINE))

    def serve(self, *, environment: dict[str, str] | None = None, wait: bool = True) -> None:
        """`keep-manager serve`, until it says where it listens."""
        command = [str(BIN / "keep-manager"), "serve", "--home", str(self.home), "--listen", "127.0.0.1:0"]
        with (self.home / "serve.log").open("ab") as log:
            self.manager = subprocess.Popen(
                [*command, "--systemd", self.supervisor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        if wait:
            assert self.manager.stdout is not None
            ready, _, _ = select.select([self.manager.stdout], [], [], _START_TIMEOUT)
            line = self.manager.stdout.readline() if ready else ""
            assert line.startswith("listening on https://"), f"{line!r}\n{self.log()}"

    def next_line(self) -> str:
        """The next line that the manager printed."""
        assert self.manager is not None
        assert self.manager.stdout is not None
        return self.manager.stdout.readline()

    def kill_manager(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop_manager(self) -> int:
        """SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def await_manager_death(self) -> None:
        """Until the manager has killed itself at a fault point."""
        assert self.manager is not None
        assert self.manager.wait(timeout=60) == -signal.SIGKILL
        self._end(signal.SIGKILL)

    def down(self) -> None:
        """`keep-manager down`: ends manager, keeps and the private systemd."""
        self.run("keep-manager", "down", "--home", str(self.home))
        if self.manager is not None:
            self._end(signal.SIGKILL)

    def run(
        self, program: str, *arguments: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One of our programs, as a user runs it."""
        options = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            del options["stdin"]
        result = subprocess.run([str(BIN / program), *arguments], check=False, **options)
        if check:
            assert result.returncode == 0, f"{program} {arguments}: {result}\n{self.log()}"
        return result

    def keepctl(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """`keepctl --home HOME ...`."""
        return self.run("keepctl", "--home", str(self.home), *arguments, check=check, **options)

    def json(self, *arguments: str) -> Any:
        """`keepctl --home HOME ... --json`, decoded."""
        return json.loads(self.keepctl(*arguments, "--json").stdout)

    def create(self, *arguments: str) -> dict[str, Any]:
        """`keepctl create --json`."""
        created: dict[str, Any] = self.json("create", *arguments)
        return created

    def keeps(self) -> list[dict[str, Any]]:
        """`keepctl ls --json`."""
        keeps: list[dict[str, Any]] = self.json("ls")
        return keeps

    def keep(self, keep_id: str) -> dict[str, Any]:
        """The entry of one keep in `keepctl ls --json`."""
        return next(keep for keep in self.keeps() if keep["id"] == keep_id)

    def log(self) -> str:
        """What the manager wrote."""
        file = self.home / "serve.log"
        return file.read_text() if file.exists() else ""

    @property
    def deployment_id(self) -> str:
        """What the instances of its keeps begin with."""
        deployment: str = json.loads((self.home / "manager.json").read_text())["deployment"]
        return deployment

    def keep_mains(self) -> list[int]:
        """The pids of the keeps' main processes: their runners and runs are below them."""
        pids = self.keep_processes()
        return [pid for pid in pids if _parent(pid) not in pids]

    def keep_processes(self) -> list[int]:
        """The pids of all processes that run a keep of this home, whatever started them."""
        return keep_processes(self.deployment_id)

    def _end(self, number: signal.Signals) -> int:
        assert self.manager is not None
        self.manager.send_signal(number)
        status = self.manager.wait(timeout=60)
        if self.manager.stdout is not None:
            self.manager.stdout.close()
        self.manager = None
        return status


@contextmanager
def running(home: Path, supervisor: str, image: Path | None = None) -> Iterator[Deployment]:
    """A new deployment for the length of the block; `image` is what its machines boot."""
    deployment = Deployment(home, supervisor)
    deployment.init()
    if image is not None:
        deployment.use_image(image)
    deployment.serve()
    try:
        yield deployment
    finally:
        deployment.down()


def keep_processes(deployment_id: str) -> list[int]:
    """The pids of all processes that run a keep of a deployment."""
    commands = ("-m keep_loader ", "from keep_loader.__main__ import start")
    return [
        pid
        for pid, line in process_lines()
        if any(command in line for command in commands) and f" {deployment_id}-" in line
    ]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def process_lines() -> list[tuple[int, str]]:
    """The pid and the command line of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found.append((int(entry.name), command))
    return found
