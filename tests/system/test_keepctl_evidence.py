"""Keeps with evidence from the command line: made, looked at, pinned, used, and kept as files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from app_loader.attesters.code_measurement import measure_code
from tests.system.deployment import BIN, Deployment, example

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def keepctl(deployment: Deployment) -> Command:
    return partial(deployment.keepctl, check=False)


@pytest.fixture
def policies(tmp_path: Path) -> tuple[Path, Path]:
    """One that accepts this code, and one that accepts other code."""
    paths = (tmp_path / "this.toml", tmp_path / "other.toml")
    for path, measurement in zip(paths, (measure_code().hex(), "11" * 32), strict=True):
        path.write_text(f'name = "{path.stem}"\n[simulated]\nmeasurements = ["{measurement}"]\n')
    return paths


def test_a_keep_is_made_with_a_policy_and_run_in(keepctl: Command, policies: tuple[Path, Path]) -> None:
    this, other = map(str, policies)
    made = keepctl("create", "--name", "proven", "--evidence", "simulated", "--policy", this)
    assert made.returncode == 0, made.stderr
    assert keepctl("run", "--keep", "proven", str(example("hello"))).stdout == "Hello, world!\n"
    refused = keepctl("runs", "proven", "--policy", other)
    assert refused.returncode == 1
    assert "simulated.measurement" in refused.stderr
    assert keepctl("rm", "proven").returncode == 0
    done = keepctl("run", "--evidence", "simulated", "--policy", this, str(example("hello")))
    assert (done.returncode, done.stdout) == (0, "Hello, world!\n")
    assert keepctl("run", "--evidence", "simulated", "--policy", other, str(example("hello"))).stdout == ""


def test_what_is_there_is_looked_at_kept_and_pinned(
    keepctl: Command, policies: tuple[Path, Path], tmp_path: Path
) -> None:
    this, other = map(str, policies)
    made = keepctl("create", "--name", "seen", "--evidence", "simulated")
    assert made.returncode == 0
    assert "keepctl trust" in made.stderr
    assert keepctl("runs", "seen").returncode == 1

    collection = tmp_path / "seen.cmw"
    attested = keepctl("attest", "seen", "-o", str(collection), "--json")
    document = json.loads(attested.stdout)
    assert attested.returncode == 1
    assert [each["name"] for each in document["checks"] if each["outcome"] == "fail"] == ["policy.missing"]
    assert document["freshness"] == "connection"
    assert keepctl("verify", str(collection), "--policy", this).returncode == 0
    assert keepctl("verify", str(collection), "--policy", other).returncode == 1
    claims = document["claims"]
    demands = ("--policy", this, "--nonce", claims["nonce"], "--spec", claims["spec_sha256"])
    assert keepctl("verify", str(collection), *demands).returncode == 0
    assert keepctl("verify", str(collection), *demands[:3], "00" * 32).returncode == 1

    assert keepctl("trust", "seen").returncode == 1, "nobody was asked"
    assert keepctl("trust", "seen", "--yes").returncode == 0
    assert keepctl("runs", "seen").returncode == 0
    assert keepctl("attest", "seen").returncode == 0
    assert claims["spec_sha256"] in keepctl("cert", "seen").stdout
    certificate = tmp_path / "seen.pem"
    certificate.write_text(keepctl("cert", "seen", "--pem").stdout)
    assert keepctl("verify", str(certificate), "--policy", this).returncode == 0
    assert keepctl("rm", "seen").returncode == 0


def test_a_watched_keep_that_is_not_what_the_policy_demands_is_stopped(
    keepctl: Command, policies: tuple[Path, Path]
) -> None:
    this, other = map(str, policies)
    assert keepctl("create", "--name", "watched", "--evidence", "simulated", "--policy", this).returncode == 0
    done = keepctl("watch", "watched", "--policy", other, "--failures", "0", "--action", "stop", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["state"], report["refused"]) == (1, "failed", True)
    assert "simulated.measurement" in report["reason"]
    assert "keep watched is stopped" in done.stderr
    assert [keep["state"] for keep in json.loads(keepctl("ls", "--json").stdout) if keep["name"] == "watched"] == [
        "stopped"
    ]
    assert keepctl("rm", "watched").returncode == 0


def test_a_watch_says_what_it_sees_until_the_keep_is_gone(
    deployment: Deployment, keepctl: Command, policies: tuple[Path, Path]
) -> None:
    made = keepctl("create", "--name", "going", "--evidence", "simulated", "--policy", str(policies[0]))
    assert made.returncode == 0
    command = [str(BIN / "keepctl"), "--home", str(deployment.home), "watch", "going", "--interval", "1s", "--json"]
    with subprocess.Popen(
        [*command, "--failures", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as watch:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        assert keepctl("rm", "going").returncode == 0
        *_, last = [json.loads(line) for line in watch.stdout]
    assert (first["state"], first["failures"]) == ("verified", 0)
    assert (last["state"], watch.returncode) == ("failed", 1)
