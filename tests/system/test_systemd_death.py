"""The private systemd hangs or is killed; the manager stays, and afterwards every keep is there once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from keep_manager.supervisor.cgroups import make_cgroups, remove_cgroups
from tests.system.deployment import BIN, Deployment, eventually, example, keep_processes


@pytest.fixture
def on_private(fresh_deployment: Deployment) -> Deployment:
    if fresh_deployment.supervisor != "private":
        pytest.skip("only a private systemd is ours to stop and to kill")
    return fresh_deployment


def _systemd(deployment: Deployment) -> int:
    runtime = Path(json.loads((deployment.home / "manager.json").read_text())["runtime"])
    address = next(folder for folder in (runtime, *runtime.parents) if (folder / "systemd" / "private").exists())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address / "systemd" / "private"))
        pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def test_a_hung_systemd_makes_the_list_stale_and_nothing_else(on_private: Deployment) -> None:
    keep = on_private.create("--name", "k")
    pid = _systemd(on_private)
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: on_private.keep(keep["id"])["stale"])
        assert on_private.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"
        refused = on_private.keepctl("create", check=False)
        assert refused.returncode == 1
        assert "supervisor-unavailable" in refused.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not on_private.keep(keep["id"])["stale"])
    eventually(lambda: len(on_private.keeps()) == 1 and len(on_private.keep_mains()) == 1)


def test_a_killed_systemd_is_replaced_and_every_keep_is_there_once(on_private: Deployment) -> None:
    keep = on_private.create("--name", "k")
    on_private.keepctl("run", str(example("hello")), "--keep", "k")
    command = [str(BIN / "keepctl"), "--home", str(on_private.home), "run", str(example("endless")), "--keep", "k"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        eventually(lambda: [run for run in on_private.json("runs", "k") if run["state"] == "running"])
        os.kill(_systemd(on_private), signal.SIGKILL)
        back = eventually(
            lambda: [entry for entry in on_private.keeps() if entry["state"] == "ready" and entry["pid"] != keep["pid"]]
        )
        client.wait(timeout=60)
    assert back[0]["endpoint"] == keep["endpoint"]
    assert len(on_private.keep_mains()) == 1
    hello, endless = on_private.json("runs", "k")
    assert (hello["exit"]["reason"], endless["exit"]["reason"]) == ("code", "lost")


def test_the_private_systemd_moves_nothing_and_marks_nothing_of_the_machine(on_private: Deployment) -> None:
    assert on_private.manager is not None
    own = Path("/proc/self/cgroup").read_text()
    assert Path(f"/proc/{on_private.manager.pid}/cgroup").read_text() == own
    assert "wasmkeep-" in Path(f"/proc/{_systemd(on_private)}/cgroup").read_text()
    if Path("/proc/1/comm").read_text().strip() != "systemd":
        assert not Path("/run/systemd/system").exists()


def test_what_a_killed_systemd_leaves_is_ended_from_another_cgroup_too(on_private: Deployment) -> None:
    on_private.create()
    os.kill(_systemd(on_private), signal.SIGKILL)
    on_private.kill_manager()
    deployment_id = on_private.deployment_id
    assert on_private.keep_mains() != []
    elsewhere = make_cgroups("wasmkeep-test")

    def join() -> None:
        for folder in elsewhere.folders:
            # A fresh cpuset of cgroup v1 takes nobody in.
            with contextlib.suppress(OSError):
                (Path(folder) / "cgroup.procs").write_text("0")

    try:
        on_private.run("keep-manager", "down", "--home", str(on_private.home), preexec_fn=join)
        assert keep_processes(deployment_id) == []
    finally:
        remove_cgroups(elsewhere)
    on_private.serve()
