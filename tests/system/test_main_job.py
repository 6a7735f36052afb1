"""The main job, as a user does it: create a keep, send a workload, run it, fetch what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.deployment import Deployment, eventually, example, guest


def test_a_workload_runs_in_a_keep_and_its_output_and_exit_code_come_back(deployment: Deployment) -> None:
    result = deployment.keepctl("run", str(example("hello")))
    assert result.stdout == "Hello, world!\n"
    assert deployment.keeps() == []


@pytest.mark.parametrize("code", [0, 1, 3, 126, 200, 255])
def test_the_exit_code_of_the_guest_becomes_that_of_keepctl(deployment: Deployment, code: int) -> None:
    result = deployment.keepctl("run", str(guest("exit_code")), "--", str(code), check=False)
    assert result.returncode == code


def test_arguments_and_environment_reach_the_guest(deployment: Deployment) -> None:
    result = deployment.keepctl("run", str(guest("args_env")), "--env", "COLOUR=blue", "--", "a b", "--flag")
    assert result.stdout == "arg args_env.wasm\narg a b\narg --flag\nenv COLOUR=blue\n"


def test_standard_input_is_streamed_to_the_guest(deployment: Deployment) -> None:
    text = "line\n" * 100_000
    result = deployment.keepctl("run", str(example("echo")), "--stdin", "-", input=text)
    assert result.stdout == text


def test_files_go_in_and_out(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two\nthree\n")
    deployment.keepctl(
        "run",
        str(example("wordcount")),
        *("--put", f"{tmp_path}/text.txt:/input/text.txt"),
        *("--get", f"/output/counts.txt:{tmp_path}/counts.txt"),
        *("--", "/input/text.txt"),
    )
    assert "3" in (tmp_path / "counts.txt").read_text()


def test_a_local_folder_is_preopened_where_asked(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "file.txt").write_text("content")
    result = deployment.keepctl("run", str(guest("list_dir")), "--dir", f"{tmp_path}/folder:/:ro", "--", "/")
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
def test_the_reason_of_the_end_is_told_by_the_exit_status(
    deployment: Deployment, arguments: list[str], status: int
) -> None:
    result = deployment.keepctl("run", *arguments, check=False)
    assert result.returncode == status, result.stderr
    assert deployment.keeps() == []


def test_a_killed_manager_finds_its_keeps_again_with_the_same_processes(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create("--name", "first")
    fresh_deployment.keepctl("run", str(example("hello")), "--keep", "first")
    fresh_deployment.kill_manager()
    fresh_deployment.serve()
    found = eventually(lambda: [entry for entry in fresh_deployment.keeps() if entry["state"] == "ready"])
    assert [(entry["id"], entry["pid"], entry["endpoint"]) for entry in found] == [
        (keep["id"], keep["pid"], keep["endpoint"])
    ]
    assert f"found keep {keep['id']} (first): ready at {keep['endpoint']}" in fresh_deployment.next_line()
    run = fresh_deployment.json("runs", "first")[0]
    assert fresh_deployment.keepctl("output", "first", run["id"]).stdout == "Hello, world!\n"


def test_a_removed_keep_leaves_nothing(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create()
    assert len(fresh_deployment.keep_processes()) >= 1
    fresh_deployment.keepctl("rm", keep["id"])
    assert fresh_deployment.keeps() == []
    assert fresh_deployment.keep_processes() == []
    left = list(fresh_deployment.home.rglob(f"*{keep['id']}*"))
    assert left == []
