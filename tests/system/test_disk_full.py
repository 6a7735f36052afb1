"""A disk that is really full: clear errors, and keep and manager live on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import small_file_system
from tests.system.deployment import Deployment, example, guest

MiB = 1024 * 1024

LIMITS = ("--workload-limit", "16M", "--files", "32M", "--output-limit", "1M")
"""What this disk could hold if nothing else were on it: the manager refuses more."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with small_file_system("32m") as folder:
        yield folder


@pytest.fixture
def deployment_on_small_disk(small_disk: Path, supervisor: str) -> Iterator[Deployment]:
    deployment = Deployment(small_disk / "home", supervisor)
    deployment.init()
    deployment.serve()
    try:
        yield deployment
    finally:
        deployment.down()


def test_a_full_disk_is_said_and_the_keep_lives_on(deployment_on_small_disk: Deployment, tmp_path: Path) -> None:
    deployment = deployment_on_small_disk
    deployment.create("--name", "k", *LIMITS)
    deployment.keepctl("load", "k", str(example("hello")))
    (deployment.home / "ballast").write_bytes(bytes(16 * MiB))
    large = tmp_path / "large"
    large.write_bytes(bytes(20 * MiB))
    refused = deployment.keepctl("put", "k", str(large), "/input/large", check=False)
    assert refused.returncode == 1
    assert "disk-full" in refused.stderr
    assert deployment.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"


def test_a_guest_that_fills_the_disk_is_ended_and_its_keep_can_be_removed(
    deployment_on_small_disk: Deployment,
) -> None:
    deployment = deployment_on_small_disk
    deployment.create("--name", "k", "--at-rest", "plain", *LIMITS)
    filled = deployment.keepctl("run", str(guest("fill_disk")), "--keep", "k", "--", "/data/full", check=False)
    assert filled.returncode == 125, filled
    assert "disk full" in filled.stderr
    hello = deployment.keepctl("run", str(example("hello")), "--keep", "k", check=False)
    assert hello.returncode == 125
    assert "disk-full" in hello.stderr
    deployment.keepctl("rm", "k")
    deployment.create("--name", "k", *LIMITS)
    assert deployment.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"


def test_what_a_guest_wrote_and_the_disk_does_not_hold_is_not_kept_and_said_so(
    deployment_on_small_disk: Deployment,
) -> None:
    deployment = deployment_on_small_disk
    deployment.create("--name", "k", *LIMITS)
    deployment.keepctl("run", str(guest("write_file")), "--keep", "k", "--", "/data/kept", "text")
    filled = deployment.keepctl("run", str(guest("fill_disk")), "--keep", "k", "--", "/data/full", check=False)
    assert filled.returncode == 125, filled
    assert "disk full" in filled.stderr
    assert "not kept" in filled.stderr
    assert deployment.keepctl("run", str(example("hello")), "--keep", "k").stdout == "Hello, world!\n"
    assert deployment.keepctl("get", "k", "/data/kept", "-").stdout == "text"
