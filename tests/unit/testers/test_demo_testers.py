"""The two testers of the seed's demo, against a real server."""

from __future__ import annotations

import shlex
from pathlib import Path

from keep_protocol.keep_api import RunExit
from keep_protocol.states import ExitReason
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment, Outcome


def _second_command(output: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.strip().startswith("app-loader-tester ")]
    return shlex.split(line)[1:]


def test_the_first_step_prints_the_second_one(fake: FakeDeployment, program: Program, wasm: Path) -> None:
    fake.guest = lambda request, keep: Outcome([b"hello\n"], exit=RunExit(ExitReason.CODE, 3))
    first = program("testers.keep_manager_tester", "--yes", "--wasm", str(wasm))
    assert (first.returncode, first.stderr) == (0, "")
    assert "keeps found: 0" in first.stdout
    assert "keeps now: 2" in first.stdout
    second = program("testers.app_loader_tester", *_second_command(first.stdout))
    assert (second.returncode, second.stderr) == (3, "")
    assert "hello\n" in second.stdout
    assert "the run has exited: code 3" in second.stdout
    used = [keep.id for keep in fake.keeps.values() if keep.workload is not None]
    assert used == [_second_command(first.stdout)[3]]


def test_run_twice_they_show_the_larger_number_of_keeps(fake: FakeDeployment, program: Program) -> None:
    program("testers.keep_manager_tester", "--yes")
    again = program("testers.keep_manager_tester", "--yes", "--keeps", "1")
    assert "keeps found: 2" in again.stdout
    assert "keeps now: 3" in again.stdout


def test_both_steps_ask_when_they_may(fake: FakeDeployment, program: Program, wasm: Path) -> None:
    first = program("testers.keep_manager_tester", stdin="many\n3\n")
    assert (first.returncode, len(fake.keeps)) == (0, 3)
    second = program("testers.app_loader_tester", stdin=f"9\n2\n{wasm}\n")
    assert (second.returncode, second.stderr) == (0, "")
    assert [keep.uploads for keep in fake.keeps.values()] == [0, 1, 0]


def test_without_keeps_the_remedy_is_told(fake: FakeDeployment, program: Program, wasm: Path) -> None:
    done = program("testers.app_loader_tester", "--yes", "--wasm", str(wasm))
    assert (done.returncode, done.stderr) == (
        125,
        "app-loader-tester: no keep is ready: run keep-manager-tester first\n",
    )
    done = program("testers.keep_manager_tester", "--keeps", "0")
    assert (done.returncode, done.stderr) == (
        1,
        "keep-manager-tester: no keep is ready: make one with --keeps 1\n",
    )


def test_a_workload_that_is_refused_is_told(fake: FakeDeployment, program: Program, tmp_path: Path) -> None:
    (text := tmp_path / "text.wasm").write_text("no wasm")
    program("testers.keep_manager_tester", "--yes", "--keeps", "1")
    done = program("testers.app_loader_tester", "--yes", "--wasm", str(text))
    assert (done.returncode, done.stderr) == (
        125,
        "app-loader-tester: workload-invalid: no wasm; send a .wasm file\n",
    )
