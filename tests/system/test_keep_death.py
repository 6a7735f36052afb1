"""Keeps are killed at bad moments and come back with what they acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.system.deployment import BIN, Deployment, eventually, example, guest


def _restarted(deployment: Deployment, keep: dict[str, object]) -> dict[str, object]:
    def ready() -> dict[str, object] | None:
        now = deployment.keep(str(keep["id"]))
        return now if now["state"] == "ready" and now["pid"] != keep["pid"] else None

    found: dict[str, object] = eventually(ready)
    return found


def test_a_killed_keep_comes_back_at_the_same_endpoint_with_its_workload_and_runs(
    fresh_deployment: Deployment,
) -> None:
    keep = fresh_deployment.create("--name", "k")
    fresh_deployment.keepctl("run", str(example("hello")), "--keep", "k")
    os.kill(keep["pid"], signal.SIGKILL)
    back = _restarted(fresh_deployment, keep)
    assert back["endpoint"] == keep["endpoint"]
    runs = fresh_deployment.json("runs", "k")
    assert [(run["exit"]["reason"], run["exit"]["code"]) for run in runs] == [("code", 0)]
    assert fresh_deployment.keepctl("output", "k", runs[0]["id"]).stdout == "Hello, world!\n"
    assert fresh_deployment.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"


def test_a_run_that_a_kill_interrupts_is_lost(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create("--name", "k")
    command = [
        str(BIN / "keepctl"),
        "--home",
        str(fresh_deployment.home),
        "run",
        str(example("endless")),
        "--keep",
        "k",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        eventually(lambda: [run for run in fresh_deployment.json("runs", "k") if run["state"] == "running"])
        os.kill(keep["pid"], signal.SIGKILL)
        assert client.wait(timeout=60) == 125
    _restarted(fresh_deployment, keep)
    (run,) = fresh_deployment.json("runs", "k")
    assert (run["state"], run["exit"]["reason"]) == ("exited", "lost")


def test_a_keep_killed_while_uploading_keeps_its_workload(fresh_deployment: Deployment, tmp_path: Path) -> None:
    keep = fresh_deployment.create("--name", "k")
    fresh_deployment.keepctl("load", "k", str(example("hello")))
    large = tmp_path / "large.wasm"
    # A custom section of 200 MB: valid, and slow enough to be interrupted.
    size = 200 * 1024 * 1024
    large.write_bytes(b"\0asm\1\0\0\0" + b"\0" + _leb128(size + 2) + b"\1x")
    with large.open("ab") as file:
        file.truncate(large.stat().st_size + size)
    command = [str(BIN / "keepctl"), "--home", str(fresh_deployment.home), "load", "k", str(large)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        state = next(path for path in fresh_deployment.home.rglob(f"*{keep['id']}/workload") if path.is_dir())
        eventually(lambda: [path for path in state.iterdir() if path.stat().st_size > 1_000_000])
        os.kill(keep["pid"], signal.SIGKILL)
        assert client.wait(timeout=60) != 0
    _restarted(fresh_deployment, keep)
    assert fresh_deployment.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"
    assert all(path.stat().st_size < 1_000_000 for path in state.iterdir())


def test_a_stopped_keep_starts_again_with_its_data_at_the_same_endpoint(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create("--name", "k")
    first = fresh_deployment.keepctl("run", str(guest("counter")), "--keep", "k").stdout
    fresh_deployment.keepctl("stop", "k")
    assert fresh_deployment.keep(keep["id"])["state"] == "stopped"
    assert fresh_deployment.keep_mains() == []
    fresh_deployment.keepctl("start", "k")
    second = fresh_deployment.keepctl("run", str(guest("counter")), "--keep", "k").stdout
    assert fresh_deployment.keep(keep["id"])["endpoint"] == keep["endpoint"]
    assert (first.strip(), second.strip()) == ("1", "2")


def _leb128(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)
