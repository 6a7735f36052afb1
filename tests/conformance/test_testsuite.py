"""Specifications of programs are read as the test suite means them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.testsuite import Outcome, Program, SuiteError, difference, programs, read_program


def _wasm(folder: Path, specification: str | None = None) -> Path:
    place = folder / "tests" / "c" / "testsuite" / "wasm32-wasip1"
    place.mkdir(parents=True, exist_ok=True)
    if specification is not None:
        (place / "it.json").write_text(specification)
    (wasm := place / "it.wasm").touch()
    return wasm


def test_a_program_without_specification_must_exit_with_0(tmp_path: Path) -> None:
    wasm = _wasm(tmp_path)
    assert programs(tmp_path) == [Program(wasm)]
    assert Program(wasm).name == "c/it"
    assert difference(Program(wasm), Outcome(0, "any", "thing")) is None
    assert "exit_code is 1, expected 0; stderr: why" in (difference(Program(wasm), Outcome(1, "", "why")) or "")


def test_a_specification_says_how_to_run_and_what_must_come(tmp_path: Path) -> None:
    wasm = _wasm(tmp_path, '{"args": ["a"], "env": {"B": "c"}, "root": "d", "exit_code": 3, "stdout": "e"}')
    (program,) = programs(tmp_path)
    assert program == Program(
        wasm, ("a",), (("B", "c"),), ((wasm.parent / "d", "/"),), exit_code=3, stdout="e", stderr=None
    )
    assert "stdout is 'f', expected 'e'" in (difference(program, Outcome(3, "f", "")) or "")


def test_older_specifications_name_folders_that_keep_their_names(tmp_path: Path) -> None:
    wasm = _wasm(tmp_path, '{"dirs": ["fs-tests.dir"]}')
    assert read_program(wasm).folders == ((wasm.parent / "fs-tests.dir", "fs-tests.dir"),)


def test_operations_are_put_together(tmp_path: Path) -> None:
    operations = (
        {"type": "run", "args": ["a"], "root": "d"},
        {"type": "write", "id": "stdin", "payload": "b"},
        {"type": "read", "id": "stderr", "payload": "c"},
        {"type": "read", "payload": "e"},
        {"type": "wait", "exit_code": 2},
    )
    wasm = _wasm(tmp_path, json.dumps({"operations": operations}))
    assert read_program(wasm) == Program(
        wasm, ("a",), (), ((wasm.parent / "d", "/"),), stdin="b", exit_code=2, stdout="e", stderr="c"
    )


@pytest.mark.parametrize("specification", ["{", "[]", '{"operations": [{"type": "connect"}]}'])
def test_what_cannot_be_understood_is_an_error(tmp_path: Path, specification: str) -> None:
    with pytest.raises(SuiteError, match=r"it\.json"):
        read_program(_wasm(tmp_path, specification))


def test_a_folder_without_programs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="prod/testsuite-base"):
        programs(tmp_path)
