"""Every parser of attestation is fuzzed: in this process with changed good artefacts, and by atheris for a while."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import keep_attestation
from tests.fuzz import targets
from tests.fuzz.corpus import seeds
from tests.fuzz.parsers import PARSERS

INPUTS = 200
"""For each target in this process; some verify signatures."""
RUNS = 10_000
SECONDS = 1
"""Per target under atheris, whichever ends first: all of them together stay below a minute."""

NAMES = targets.target_names()
_PACKAGE = Path(keep_attestation.__file__).parent
_READS = re.compile(r"(parse|read|decode)_\w+")
_RAW = {"bytes", "str", "Path", "Certificate"}


def _parsers() -> dict[str, set[str]]:
    """By module: its public functions that are named as readers and take what somebody else wrote."""
    found: dict[str, set[str]] = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(_PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef)
                and _READS.fullmatch(node.name)
                and node.args.args
                and node.args.args[0].annotation is not None
                and ast.unparse(node.args.args[0].annotation) in _RAW
            ):
                found.setdefault(module, set()).add(node.name)
    return found


def test_every_parser_has_a_fuzz_target() -> None:
    missing = {
        f"{module}.{function}"
        for module, functions in _parsers().items()
        for function in functions
        if PARSERS.get(module, {}).get(function) not in NAMES
    }
    assert not missing, f"write a target in tests/fuzz and name it in tests/fuzz/parsers.py for: {sorted(missing)}"


@pytest.mark.parametrize("name", sorted({target for functions in PARSERS.values() for target in functions.values()}))
def test_every_parser_is_called_by_the_target_that_is_listed_for_it(name: str) -> None:
    target, called = targets.load_target(name), set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.add((frame.f_code.co_filename, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        for data in seeds(name):
            target(data)
    finally:
        sys.setprofile(None)
    listed = {
        (module, function) for module, functions in PARSERS.items() for function, by in functions.items() if by == name
    }
    idle = [
        f"{m}.{f}" for m, f in listed if (str(_PACKAGE.joinpath(*m.split(".")).with_suffix(".py")), f) not in called
    ]
    assert not idle, f"{name} never calls {idle}"


def test_every_target_has_artefacts_to_start_from() -> None:
    assert [name for name in NAMES if not seeds(name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_changed_artefacts_raise_nothing_but_our_own_errors(name: str) -> None:
    target = targets.load_target(name)
    for data in targets.mutations(name, seeds(name), INPUTS):
        try:
            target(data)
        except BaseException as error:
            raise AssertionError(f"{name} raised {error!r} for {data.hex()}") from error


@pytest.mark.parametrize("name", NAMES)
def test_atheris_finds_nothing_in_a_while(name: str, tmp_path: Path) -> None:
    if (reason := targets.atheris_missing()) is not None:
        pytest.skip(reason)
    found = targets.fuzz(name, seeds(name), tmp_path, runs=RUNS, seconds=SECONDS)
    assert found is None, found
