"""The sandbox of keeps on a private systemd, by effect and as it is shown."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.deployment import ROOT, Deployment, eventually, example, guest

# cgroup v1 has no limit for swap alone, so this one cannot hold there.
NOT_ON_CGROUP_V1 = {"MemorySwapMax"}
# Seen with 257: its user instances give a unit no /proc of its own, and so nothing that rests on it; `show` says so.
LAST_WITH_OWN_PROC = 252
NOT_WITHOUT_OWN_PROC = {"ProtectProc", "ProcSubset", "ProtectKernelTunables"}


def systemd_version() -> int:
    """Of the installed systemd."""
    for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd"):
        if Path(path).exists():
            told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            return int(told.split()[1])
    raise AssertionError("no systemd is installed")


@pytest.fixture
def sandboxed(deployment: Deployment) -> Deployment:
    if deployment.supervisor == "detached":
        pytest.skip("`detached` promises no sandbox")
    return deployment


def test_every_directive_of_the_unit_is_verified(sandboxed: Deployment) -> None:
    keep = sandboxed.create()
    sandbox = sandboxed.json("show", keep["id"])["sandbox"]
    expected = set() if Path("/sys/fs/cgroup/cgroup.controllers").exists() else NOT_ON_CGROUP_V1
    if systemd_version() > LAST_WITH_OWN_PROC:
        expected = expected | NOT_WITHOUT_OWN_PROC
    assert {line["name"] for line in sandbox if not line["status"].startswith("verified")} == expected
    assert {line["name"] for line in sandbox} >= {"PrivateNetwork", "ProtectHome", "MemoryMax", "SystemCallFilter"}
    sandboxed.keepctl("rm", keep["id"])


@pytest.mark.parametrize(
    ("unit", "exposure"),
    [("keep@.service", 0.5), ("user/keep@.service", 1.0), ("keep-net@.service", 2.0), ("user/keep-net@.service", 2.0)],
)
def test_the_shipped_unit_is_hardened(unit: str, exposure: float) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=true", str(ROOT / "systemd" / unit)]
    analysis = subprocess.run(command, capture_output=True, text=True, check=False)
    if analysis.stderr.startswith(("Failed to initialize manager", "Failed to create directory")):
        pytest.skip(f"systemd-analyze does not run here: {analysis.stderr.strip()}")
    assert analysis.returncode == 0, analysis.stderr
    # 252 calls the instance `i`, 257 `test_instance`.
    found = re.search(r"exposure level for keep[\w-]*@\w+\.service: ([0-9.]+)", analysis.stdout)
    assert found, analysis.stdout
    assert float(found[1]) <= exposure


def test_keeps_of_one_deployment_run_under_users_of_their_own(sandboxed: Deployment) -> None:
    keeps = [sandboxed.create(), sandboxed.create()]
    users = {Path(f"/proc/{keep['pid']}").stat().st_uid for keep in keeps}
    assert len(users) == 2
    assert os.geteuid() not in users
    for keep in keeps:
        sandboxed.keepctl("rm", keep["id"])


def test_a_keep_cannot_take_more_memory_than_its_spec_says(sandboxed: Deployment) -> None:
    keep = sandboxed.create("--memory", "96M")
    result = sandboxed.keepctl(
        "run", str(guest("grow")), "--keep", keep["id"], "--memory", "1G", "--", "spin", check=False
    )
    assert result.returncode in (125, 137), result.stderr
    after = eventually(lambda: sandboxed.keep(keep["id"]))
    assert (after["state"], after["pid"]) == ("ready", keep["pid"])
    assert sandboxed.keepctl("run", str(example("hello")), "--keep", keep["id"]).stdout == "Hello, world!\n"
    sandboxed.keepctl("rm", keep["id"])


def test_a_guest_finds_no_way_out_of_its_folders(deployment: Deployment) -> None:
    result = deployment.keepctl("run", str(guest("escape")))
    assert result.stdout.endswith("all refused\n")
