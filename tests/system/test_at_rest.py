"""What the host finds of a sealed keep on its disks, while it works, when it is killed, and afterwards."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

import pytest

from keep_client import ProblemError
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import RunRequest
from keep_protocol.memory_folder import SHARED_MEMORY, UNIT_MEMORY
from keep_protocol.states import ExitReason, KeepState, RunState
from tests.system.deployment import Deployment, eventually, example, guest
from tests.system.test_secrets import connected, folders_of, holding, processes_below


def leaks(deployment: Deployment, pid: int, *needles: bytes) -> list[str]:
    """Where the host finds any of them on disk: home with state and logs, the keep's state and runtime folder."""
    places = [deployment.home, *folders_of(pid)]
    return [f"{needle!r} in {where}" for needle in needles for place in places for where in holding(place, needle)]


def canary(name: str) -> bytes:
    return f"canary-{name}-{secrets.token_hex(12)}".encode()


def memory_of(pid: int) -> list[Path]:
    """Folders in memory that the keep of this process has files in."""
    return [Path(f"/proc/{pid}/root{memory}") for memory in (UNIT_MEMORY, SHARED_MEMORY)]


def test_workload_files_output_and_arguments_are_on_no_disk(fresh_deployment: Deployment) -> None:
    deployment = fresh_deployment
    pid = int(deployment.create("--name", "safe")["pid"])
    given, kept, argument = canary("input"), canary("data"), canary("argument")
    wasm = guest("read_file").read_bytes()
    # Bytes of the code itself; the sealed file has as many others.
    code = wasm[len(wasm) // 2 :][:32]
    deployment.keepctl("put", "safe", "-", "/input/given", input=given.decode())
    deployment.keepctl("put", "safe", "-", "/data/kept", input=kept.decode())
    shown = deployment.keepctl("run", "--keep", "safe", str(guest("read_file")), "--", "/input/given", "/data/kept")
    assert shown.stdout.encode() == given + kept
    deployment.keepctl("run", "--keep", "safe", str(guest("write_file")), "--", "/output/out", argument.decode())
    deployment.keepctl("load", "safe", str(guest("read_file")))
    assert leaks(deployment, pid, given, kept, argument, code) == []
    for memory in memory_of(pid):
        assert [*holding(memory, given), *holding(memory, kept)] == []
    deployment.keepctl("restart", "safe")
    assert deployment.keepctl("get", "safe", "/data/kept", "-").stdout.encode() == kept
    shown = deployment.keepctl("run", "--keep", "safe", str(guest("read_file")), "--", "/data/kept")
    assert shown.stdout.encode() == kept


def test_a_keep_that_is_killed_in_a_run_leaves_nothing_and_falls_back(fresh_deployment: Deployment) -> None:
    deployment = fresh_deployment
    keep = deployment.create("--name", "safe")
    pid = int(keep["pid"])
    kept, printed = canary("data"), canary("printed")
    deployment.keepctl("put", "safe", "-", "/data/kept", input=kept.decode())
    deployment.keepctl("load", "safe", str(example("echo")))
    with connected(deployment, "safe") as client:
        run = client.start_run(RunRequest(stdin="stream"))
        eventually(lambda: client.get_run(run.id).state is RunState.RUNNING and len(processes_below(pid)) > 2)
        views = [path for memory in memory_of(pid) for path in memory.rglob("kept")]
        assert [path.read_bytes() for path in views if path.exists()][:1] == [kept]
        # As a run would that is half through.
        views[0].write_bytes(printed)
        assert leaks(deployment, pid, kept, printed) == []
        os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        entry = deployment.keep(keep["id"])
        return entry["state"] == KeepState.READY and entry["pid"] not in {None, pid}

    eventually(again)
    with connected(deployment, "safe") as client:
        ended = client.get_run(run.id)
    assert ended.exit is not None
    assert ended.exit.reason is ExitReason.LOST
    assert deployment.keepctl("get", "safe", "/data/kept", "-").stdout.encode() == kept
    now = int(deployment.keep(keep["id"])["pid"])
    assert leaks(deployment, now, kept, printed) == []
    for memory in memory_of(now):
        assert [*holding(memory, kept), *holding(memory, printed)] == []


def test_a_workload_has_sealed_files_that_its_owner_carries_away(fresh_deployment: Deployment, tmp_path: Path) -> None:
    deployment = fresh_deployment
    deployment.create("--name", "safe")
    text = canary("sealed")
    sealed = tmp_path / "sealed"
    run = ("run", "--keep", "safe", "--get", f"/sealed/f:{sealed}", str(guest("write_file")))
    deployment.keepctl(*run, "--", "/sealed/f", text.decode())
    assert text not in sealed.read_bytes()
    deployment.keepctl("unseal", "safe", str(sealed), str(tmp_path / "opened"), "--purpose", "file", "--allow-rollback")
    assert (tmp_path / "opened").read_bytes() == text
    deployment.keepctl("put", "safe", str(sealed), "/sealed/back")
    shown = deployment.keepctl(
        *("run", "--keep", "safe", "--get", f"/sealed/back:{tmp_path / 'again'}", str(guest("read_file"))),
        *("--", "/sealed/back"),
    )
    assert shown.stdout.encode() == text
    assert (tmp_path / "again").read_bytes() == sealed.read_bytes()


def test_a_keep_whose_key_is_lost_starts_and_says_what_it_cannot_open(fresh_deployment: Deployment) -> None:
    deployment = fresh_deployment
    keep = deployment.create("--name", "safe")
    deployment.keepctl("put", "safe", "-", "/data/kept", input="x")
    deployment.keepctl("load", "safe", str(guest("args_env")))
    deployment.keepctl("stop", "safe")
    (deployment.home / "state" / "keys" / keep["id"]).unlink()
    deployment.keepctl("start", "safe")
    with connected(deployment, "safe") as client, pytest.raises(ProblemError) as failed:
        client.start_run(RunRequest())
    assert failed.value.code == ErrorCode.SEALING_KEY_UNKNOWN
    refused = deployment.keepctl("get", "safe", "/data/kept", "-", check=False)
    assert "sealing-key-unknown" in refused.stderr
    assert "is not one of this keep's" in refused.stderr
    assert "cannot be opened" in deployment.keepctl("logs", "safe").stdout
