"""`keepctl inspect`: what a workload is, before anything of it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import InvalidArgumentError, Source
from keep_protocol.keep_api import HttpPortStatus, WorkloadDescription, WorkloadInfo
from keep_protocol.python_source import source_problem
from keep_protocol.states import WasmFeature, WorkloadKind
from keep_protocol.webassembly.description import describe
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.recognition import recognize
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import show_fields, show_json, show_table
from testers.keepctl.quantities import size_text
from testers.keepctl.uploads import PYTHON_SUFFIX, is_python

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

REFUSED = 1

_MEANINGS = {
    WorkloadKind.COMMAND: "a command for WASI preview 1: keepctl run",
    WorkloadKind.REACTOR: "a module that is initialised, then called: keepctl call",
    WorkloadKind.MODULE: "a module whose functions are called: keepctl call",
    WorkloadKind.COMPONENT_COMMAND: "a component that is a command for WASI 0.2: keepctl run",
    WorkloadKind.HTTP_PROXY: "a component that answers HTTP requests",
    WorkloadKind.PYTHON: "a program in Python: keepctl run",
    WorkloadKind.COMPONENT: "a component whose functions are called: keepctl call",
}


class Inspection(msgspec.Struct, frozen=True):
    """What is known of a file. `refusals` say why a keep would not load it."""

    digest: str
    size: int
    workload: WorkloadDescription | None
    refusals: tuple[str, ...]


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    inspect = add_command(
        subparsers,
        "inspect",
        "show what a .wasm file, a program in Python, or the workload of a keep, is, wants and offers",
        _inspect,
        examples=("keepctl inspect hello.wasm", "keepctl inspect report.py", "keepctl inspect prices --json"),
        details=(
            "A file is read here and sent nowhere; the status is 1 if a keep would refuse it. The types of a\n"
            "component's functions are known once it is loaded: then ask for KEEP."
        ),
    )
    inspect.add_argument("subject", metavar="FILE|KEEP", help="a file, else a keep's id or name")
    add_policy_option(inspect)


def _inspect(options: argparse.Namespace) -> int:
    path = Path(options.subject)
    # What is called like a file is hardly meant as a keep; one of such a name can be asked for by its id.
    is_path = path.is_file() or "/" in options.subject or path.suffix in (".wasm", PYTHON_SUFFIX)
    return _inspect_file(path, options.json) if is_path else _inspect_keep(options)


def _inspect_file(path: Path, as_json: bool) -> int:
    source = Source.from_file(path)
    inspection = _of_python(source, path.read_bytes()) if is_python(path) else _inspection(source, path.read_bytes())
    if as_json:
        show_json(inspection)
        return REFUSED if inspection.refusals else 0
    _show(source.digest.hex(), source.size, inspection.workload)
    for refusal in inspection.refusals:
        print(f"refused: {printable(refusal)}")
    return REFUSED if inspection.refusals else 0


def _inspection(source: Source, wasm: bytes) -> Inspection:
    digest = source.digest.hex()
    try:
        recognition = recognize(wasm)
    except MalformedError as error:
        return Inspection(digest, source.size, None, (str(error),))
    described = msgspec.structs.replace(describe(recognition), problems=recognition.remarks)
    return Inspection(digest, source.size, described, recognition.refusals)


def _of_python(source: Source, content: bytes) -> Inspection:
    problem = source_problem(content)
    described = None if problem else WorkloadDescription(WorkloadKind.PYTHON)
    return Inspection(source.digest.hex(), source.size, described, (problem,) if problem else ())


def _inspect_keep(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.subject, options.policy) as keep:
        info, port = keep.workload(), keep.status().http_port
    if options.json:
        show_json(info)
        return 0
    if info.digest is None or info.size is None:
        why = "; ".join((f"it is {info.state}", *info.problems))
        raise InvalidArgumentError(f"the keep {options.subject} has no workload loaded: {why}")
    _show(info.digest, info.size, _described(info), port, info.runtime)
    return 0


def _described(info: WorkloadInfo) -> WorkloadDescription | None:
    if info.kind is None:
        return None
    return WorkloadDescription(
        *(info.kind, info.imports, info.exports, info.problems),
        *(info.imports_omitted, info.exports_omitted, info.features),
    )


def _needs(features: Sequence[WasmFeature]) -> str | None:
    if not features:
        return None
    listed = ", ".join(f'"{feature}"' for feature in features)
    return f"{', '.join(features)}: off unless Keep.toml has features = [{listed}]"


def _port(port: HttpPortStatus | None) -> str | None:
    if port is None:
        return None
    whom = "for everybody" if port.public else "for owners and callers"
    return f"{port.port}, {whom}: {'open' if port.listening else f'not open, {port.problem}'}"


def _show(
    digest: str,
    size: int,
    described: WorkloadDescription | None,
    port: HttpPortStatus | None = None,
    runtime: str | None = None,
) -> None:
    kind = None if described is None else f"{described.kind}: {_MEANINGS[described.kind]}"
    show_fields(
        {
            "kind": kind,
            "size": size_text(size),
            "sha-256": digest,
            "needs": None if described is None else _needs(described.features),
            "runtime": runtime,
            "http port": _port(port),
        }
    )
    if described is None:
        return
    if described.imports:
        print()
        show_table(
            ("IMPORT", "TYPE", "GIVEN"),
            [(each.name, each.type, "yes" if each.given else "no") for each in described.imports],
        )
    if described.exports:
        print()
        show_table(("EXPORT", "TYPE"), [(each.name, each.type) for each in described.exports])
    for omitted, what in ((described.imports_omitted, "imports"), (described.exports_omitted, "exports")):
        if omitted:
            print(f"and {omitted} more {what}")
    if described.problems:
        print()
    for problem in described.problems:
        print(f"note: {printable(problem)}")
