"""The preview-1 programs of WebAssembly/wasi-testsuite, unchanged, through `keepctl run`.

`WASI_TESTSUITE` names a checkout of its branch `prod/testsuite-base`, which has them built; without it they are
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from benchmarks import wasmtime_cli
from tests.conformance.testsuite import Outcome, Program, difference, programs
from tests.system.deployment import ROOT, Deployment

VARIABLE = "WASI_TESTSUITE"

FAIL_IN_WASMTIME_TOO = frozenset({"rust/remove_directory_trailing_slashes"})
"""Named by docs/conformance.md, which says why."""

if _folder := os.environ.get(VARIABLE):
    PROGRAMS = [pytest.param(program, id=program.name) for program in programs(Path(_folder))]
else:
    _reason = f"{VARIABLE} names no checkout of WebAssembly/wasi-testsuite, branch prod/testsuite-base"
    PROGRAMS = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=_reason))]


def _folders(program: Program, scratch: Path) -> list[tuple[Path, str]]:
    """Copies, because programs leave files behind."""
    return [
        (Path(shutil.copytree(folder, scratch / f"folder-{number}", symlinks=True)), guest)
        for number, (folder, guest) in enumerate(program.folders)
    ]


def _environment(program: Program) -> list[str]:
    return [word for name, value in program.env for word in ("--env", f"{name}={value}")]


def _in_a_keep(program: Program, deployment: Deployment, keep: str, scratch: Path) -> Outcome:
    folders = [word for local, guest in _folders(program, scratch) for word in ("--dir", f"{local}:{guest}")]
    options = ["--no-folders", *folders, *_environment(program)]
    if program.stdin is not None:
        (given := scratch / "stdin").write_text(program.stdin)
        options += ["--stdin", str(given)]
    ran = deployment.keepctl(
        "run", "--json", "--keep", keep, *options, str(program.wasm), "--", *program.args, check=False
    )
    assert ran.stdout, ran.stderr
    document = json.loads(ran.stdout)
    return Outcome(ran.returncode, *(b64decode(document[name]).decode() for name in ("stdout", "stderr")))


def _in_wasmtime(program: Program, scratch: Path) -> Outcome:
    folders = [word for local, guest in _folders(program, scratch) for word in ("--dir", f"{local}::{guest}")]
    command: list[str] = [
        str(wasmtime_cli.command()),
        "run",
        *folders,
        *_environment(program),
        str(program.wasm),
        *program.args,
    ]
    ran = subprocess.run(command, input=program.stdin or "", capture_output=True, text=True, check=False)
    return Outcome(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_does_in_a_keep_what_its_specification_says(
    program: Program, deployment: Deployment, keep: str, tmp_path: Path
) -> None:
    wrong = difference(program, _in_a_keep(program, deployment, keep, tmp_path))
    if program.name in FAIL_IN_WASMTIME_TOO:
        assert wrong, f"{program.name} is excused, and passes"
    else:
        assert wrong is None, wrong


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_what_the_wasmtime_cli_fails_is_excused(program: Program, tmp_path: Path) -> None:
    try:
        wasmtime_cli.command()
    except RuntimeError as error:
        pytest.skip(str(error))
    wrong = difference(program, _in_wasmtime(program, tmp_path))
    assert (wrong is not None) == (program.name in FAIL_IN_WASMTIME_TOO), wrong


def test_every_excused_program_is_named_by_the_documentation() -> None:
    told = (ROOT / "docs" / "conformance.md").read_text()
    assert [name for name in FAIL_IN_WASMTIME_TOO if f"`{name}`" not in told] == []
