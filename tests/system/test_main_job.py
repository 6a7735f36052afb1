"""The main job, as a user does it: create a keep, send a workload, run it, fetch what came out. The same for every
backend that runs anywhere.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keep_protocol.spec import MiB
from keep_protocol.states import Backend
from tests.system.deployment import GUEST_MEMORY, MACHINES_UNDER, Deployment, eventually, example, guest

LITTLE_ROOM = ("--files", "8M")
MACHINE = ("--backend", Backend.QEMU, "--memory", GUEST_MEMORY)

pytestmark = pytest.mark.parametrize(
    ("supervisor", "backend"),
    [("private", Backend.PROCESS), ("detached", Backend.PROCESS), (MACHINES_UNDER, Backend.QEMU)],
    indirect=True,
    scope="session",
)


@dataclass(frozen=True)
class Job:
    """`keepctl run`: in a keep of its own, or, where keeps take long to start, in one that many runs share."""

    deployment: Deployment
    keep: str | None

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        where = () if self.keep is None else ("--keep", self.keep)
        return self.deployment.keepctl("run", *where, *arguments, check=check, **options)

    def leaves_no_keep(self) -> bool:
        return [keep["id"] for keep in self.deployment.keeps()] == ([] if self.keep is None else [self.keep])


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param)


@pytest.fixture(scope="session")
def job(request: pytest.FixtureRequest, supervisor: str, backend: Backend) -> Job:
    if backend is Backend.PROCESS:
        return Job(request.getfixturevalue("deployment"), None)
    deployment: Deployment = request.getfixturevalue("machine_deployment")
    return Job(deployment, deployment.create(*MACHINE, "--output-limit", "4M", *LITTLE_ROOM)["id"])


@pytest.fixture
def own_job(request: pytest.FixtureRequest, job: Job, backend: Backend) -> Job:
    """One whose manager may be killed; where keeps take long to start it has the keep of all, which outlives that."""
    if backend is not Backend.PROCESS:
        return job
    deployment: Deployment = request.getfixturevalue("fresh_deployment")
    return Job(deployment, deployment.create()["id"])


@pytest.fixture(scope="session")
def options(backend: Backend) -> tuple[str, ...]:
    """Of `keepctl create`."""
    return () if backend is Backend.PROCESS else MACHINE


def test_a_workload_runs_in_a_keep_and_its_output_and_exit_code_come_back(job: Job) -> None:
    result = job.run(str(example("hello")))
    assert result.stdout == "Hello, world!\n"
    assert job.leaves_no_keep()


@pytest.mark.parametrize("code", [0, 1, 3, 126, 200, 255])
def test_the_exit_code_of_the_guest_becomes_that_of_keepctl(job: Job, code: int) -> None:
    result = job.run(str(guest("exit_code")), "--", str(code), check=False)
    assert result.returncode == code


def test_arguments_and_environment_reach_the_guest(job: Job) -> None:
    result = job.run(str(guest("args_env")), "--env", "COLOUR=blue", "--", "a b", "--flag")
    assert result.stdout == "arg args_env.wasm\narg a b\narg --flag\nenv COLOUR=blue\n"


def test_a_guest_that_asks_for_very_much_randomness_is_given_it(job: Job) -> None:
    assert job.run(str(guest("entropy"))).stdout == ""
    assert job.leaves_no_keep()


def test_a_guest_that_fills_the_files_of_its_keep_is_stopped_at_their_limit(job: Job) -> None:
    deployment = job.deployment
    keep = job.keep or deployment.create(*LITTLE_ROOM)["id"]
    filled = deployment.keepctl("run", "--keep", keep, str(guest("fill_disk")), "--", "/data/full", check=False)
    assert (filled.returncode, filled.stdout) == (1, f"{8 * MiB} EFBIG\n")
    # There is no room for more, and runs that want none go on.
    refused = deployment.keepctl("put", keep, "-", "/data/more", input="more", check=False)
    assert "limit `files`" in refused.stderr
    sleeping = ("run", "--keep", keep, str(example("endless")), "--timeout", "1s", "--", "sleep")
    assert deployment.keepctl(*sleeping, check=False).returncode == 124
    deployment.keepctl("put", keep, "-", "/data/full", input="little")
    if job.keep is None:
        deployment.keepctl("rm", keep)


def test_standard_input_is_streamed_to_the_guest(job: Job) -> None:
    text = "line\n" * 100_000
    result = job.run(str(example("echo")), "--stdin", "-", input=text)
    assert result.stdout == text


def test_files_go_in_and_out(job: Job, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two\nthree\n")
    job.run(
        str(example("wordcount")),
        *("--put", f"{tmp_path}/text.txt:/input/text.txt"),
        *("--get", f"/output/counts.txt:{tmp_path}/counts.txt"),
        *("--", "/input/text.txt"),
    )
    assert "3" in (tmp_path / "counts.txt").read_text()


def test_a_local_folder_is_preopened_where_asked(job: Job, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "file.txt").write_text("content")
    result = job.run(str(guest("list_dir")), "--dir", f"{tmp_path}/folder:/:ro", "--", "/")
    assert result.stdout == "d deep\nf file.txt\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([str(example("crasher"))], 134),
        ([str(example("crasher")), "--", "stack"], 134),
        ([str(example("endless")), "--timeout", "1s"], 124),
        ([str(example("endless")), "--timeout", "1s", "--", "sleep"], 124),
        ([str(guest("grow")), "--memory", "16M", "--", "trap"], 137),
        ([str(guest("big_init")), "--memory", "16M"], 137),
        ([str(guest("flood"))], 125),
    ],
)
def test_the_reason_of_the_end_is_told_by_the_exit_status(job: Job, arguments: list[str], status: int) -> None:
    result = job.run(*arguments, check=False)
    assert result.returncode == status, result.stderr
    assert job.leaves_no_keep()


def test_a_killed_manager_finds_its_keeps_again_with_the_same_processes(own_job: Job) -> None:
    deployment = own_job.deployment
    (keep,) = deployment.keeps()
    own_job.run(str(example("hello")))
    deployment.kill_manager()
    deployment.serve()
    found = eventually(lambda: [entry for entry in deployment.keeps() if entry["state"] == "ready"])
    assert [(entry["id"], entry["pid"], entry["endpoint"]) for entry in found] == [
        (keep["id"], keep["pid"], keep["endpoint"])
    ]
    assert re.match(rf"found keep {keep['id']}.*: ready at {keep['endpoint']}, ", deployment.next_line())
    run = deployment.json("runs", keep["id"])[-1]
    assert deployment.keepctl("output", keep["id"], run["id"]).stdout == "Hello, world!\n"


def test_a_removed_keep_leaves_nothing(job: Job, options: tuple[str, ...]) -> None:
    deployment = job.deployment
    before = deployment.keep_mains()
    keep = deployment.create(*options)
    assert set(deployment.keep_mains()) - set(before) == {keep["pid"]}
    deployment.keepctl("rm", keep["id"])
    assert job.leaves_no_keep()
    assert deployment.keep_mains() == before
    left = list(deployment.home.rglob(f"*{keep['id']}*"))
    assert left == []
