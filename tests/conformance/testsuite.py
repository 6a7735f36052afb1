"""The programs of WebAssembly/wasi-testsuite and what is expected of them, as its doc/specification.md says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

PROGRAMS = "tests/*/testsuite/wasm32-wasip1/*.wasm"
"""Where the branch `prod/testsuite-base` has those of preview 1."""

ROOT = "/"
"""Where a program sees the folder that its specification calls `root`."""


class SuiteError(Exception):
    """A folder has no programs, or a specification cannot be understood."""


@dataclass(frozen=True)
class Program:
    """One program: how it is run, and what must come of it; None where anything may."""

    wasm: Path
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    folders: tuple[tuple[Path, str], ...] = ()
    """Folders beside the program, and where it sees them."""
    stdin: str | None = None
    exit_code: int = 0
    stdout: str | None = None
    stderr: str | None = None

    @property
    def name(self) -> str:
        """Such as `rust/path_link`."""
        return f"{self.wasm.parents[2].name}/{self.wasm.stem}"


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    exit_code: int
    stdout: str
    stderr: str


def difference(program: Program, outcome: Outcome) -> str | None:
    """What is not as the specification says, in words, or None."""
    for name in ("exit_code", "stdout", "stderr"):
        expected, got = getattr(program, name), getattr(outcome, name)
        if expected is not None and got != expected:
            return f"{program.name}: {name} is {got!r}, expected {expected!r}; stderr: {outcome.stderr}"
    return None


def programs(folder: Path) -> list[Program]:
    """All programs of preview 1 in a checkout. Raises `SuiteError`."""
    found = sorted(folder.glob(PROGRAMS))
    if not found:
        raise SuiteError(f"{folder} has no {PROGRAMS}: expected the branch prod/testsuite-base of wasi-testsuite")
    return [read_program(wasm) for wasm in found]


def read_program(wasm: Path) -> Program:
    """A program with the specification beside it, if there is one. Raises `SuiteError`."""
    file = wasm.with_suffix(".json")
    if not file.exists():
        return Program(wasm)
    try:
        specification = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise SuiteError(f"{file}: {error}") from None
    return Program(wasm, **_fields(file, specification))


def _fields(file: Path, specification: dict[str, Any]) -> dict[str, Any]:
    if "operations" in specification:
        return _operations(file, specification["operations"])
    fields = _how_to_run(file, specification)
    for name in ("exit_code", "stdout", "stderr"):
        if name in specification:
            fields[name] = specification[name]
    return fields


def _operations(file: Path, operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The newer form, a conversation; those of preview 1 are only ever started, written to, read and awaited."""
    fields: dict[str, Any] = {}
    for operation in operations:
        stream, payload = operation.get("id", "stdout"), operation.get("payload", "")
        match operation["type"]:
            case "run":
                fields |= _how_to_run(file, operation)
            case "write":
                fields["stdin"] = fields.get("stdin", "") + payload
            case "read":
                fields[stream] = fields.get(stream, "") + payload
            case "wait":
                fields["exit_code"] = operation.get("exit_code", 0)
            case unknown:
                raise SuiteError(f"{file}: operation {unknown!r} is none of run, write, read, wait")
    return fields


def _how_to_run(file: Path, described: dict[str, Any]) -> dict[str, Any]:
    """`root` is seen as `/`; the older `dirs` by their own names."""
    folders = [(file.parent / name, name) for name in described.get("dirs", ())]
    if root := described.get("root"):
        folders.append((file.parent / root, ROOT))
    return {
        "args": tuple(described.get("args", ())),
        "env": tuple(described.get("env", {}).items()),
        "folders": tuple(folders),
    }
