"""`keepctl call` and `keepctl inspect`, as processes against a deployment."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import wasmtime

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import CallRequest, CallResult, WorkloadDescription, WorkloadExport, WorkloadImport
from keep_protocol.states import WorkloadKind
from tests.unit.keep_client.servers import Reply, json_reply, problem_reply
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_arguments_are_json_and_what_is_none_is_a_string(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "prices")
    called = keepctl("call", "prices", "echo", "1", "-2", "hello", "[1, null]", '"7"', '{"a": 0.5}', "9007199254740993")
    assert json.loads(called.stdout) == [1, -2, "hello", [1, None], "7", {"a": 0.5}, 9007199254740993]
    assert called.returncode == 0
    assert json.loads(keepctl("call", "prices", "echo").stdout) == []
    assert json.loads(keepctl("call", "prices", "echo", "--", "-1e3").stdout) == [-1000.0]


def test_json_that_a_parameter_does_not_take_is_tried_as_the_string_that_it_is(
    fake: FakeDeployment, keepctl: Program
) -> None:
    """The function is `f(text: string, count: s32, names: list<string>)`."""
    asked = []

    def answer(name: str, request: CallRequest) -> Reply:
        text, count, names = arguments = msgspec.json.decode(request.arguments)
        asked.append(arguments)
        for index, fits in enumerate((isinstance(text, str), isinstance(count, int), isinstance(names, list))):
            if not fits:
                detail = f"{arguments[index]!r} does not fit"
                return problem_reply(ErrorCode.FIELD_INVALID, detail, field=f"$.arguments[{index}]")
        if not all(isinstance(each, str) for each in names):
            return problem_reply(ErrorCode.FIELD_INVALID, "no string", field="$.arguments[2][0]")
        return json_reply(CallResult(request.arguments))

    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    keep.function = answer
    assert json.loads(keepctl("call", "prices", "f", "1e3", "42", '["a"]').stdout) == ["1e3", 42, ["a"]]
    assert asked == [[1000.0, 42, ["a"]], ["1e3", 42, ["a"]]]
    assert json.loads(keepctl("call", "prices", "f", '"1e3"', "42", "[]").stdout) == ["1e3", 42, []]
    assert json.loads(keepctl("call", "prices", "f", '{"a": 1}', "42", "[]").stdout) == ['{"a": 1}', 42, []]
    # What fits in neither way is refused for what it is as JSON.
    refused = keepctl("call", "prices", "f", "true", "[7]", "[]")
    assert (refused.returncode, refused.stderr) == (1, "keepctl: field-invalid: [7] does not fit ($.arguments[1])\n")
    # What is wrong within an argument is no reason to take all of it for a string.
    asked.clear()
    assert "no string" in keepctl("call", "prices", "f", "x", "1", "[7]").stderr
    assert len(asked) == 1


def test_limits_of_a_call_are_passed_on(fake: FakeDeployment, keepctl: Program) -> None:
    asked = []

    def answer(name: str, request: object) -> Reply:
        asked.append((name, request))
        return problem_reply(ErrorCode.FUNCTION_NOT_FOUND, "there are a, b")

    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    keep.function = answer
    refused = keepctl("call", "prices", "a:b/c@1.0.0#d", "--timeout", "2s", "--memory", "8M")
    assert (refused.returncode, refused.stderr) == (1, "keepctl: function-not-found: there are a, b\n")
    ((name, request),) = asked
    assert name == "a:b/c@1.0.0#d"
    assert (getattr(request, "timeout", None), getattr(request, "memory", None)) == (2.0, 8 * 1024 * 1024)


def test_a_trap_is_shown_with_its_backtrace_and_nothing_steers_the_terminal(
    fake: FakeDeployment, keepctl: Program
) -> None:
    def answer(name: str, request: object) -> Reply:
        refusal = RefusalError(ErrorCode.CALL_TRAPPED, "wasm trap", trap="unreachable", backtrace=("main!\x1b[2J+0x1",))
        return Reply(502, msgspec.json.encode(refusal.problem()), "application/problem+json")

    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    keep.function = answer
    trapped = keepctl("call", "prices", "f")
    assert trapped.returncode == 1
    assert trapped.stderr == "keepctl: call-trapped: wasm trap\n    main!\\x1b[2J+0x1\n"


def test_a_file_is_inspected_without_a_deployment(program: Program) -> None:
    shown = program("testers.keepctl", "inspect", str(EXAMPLES / "hello" / "hello.wasm"))
    assert shown.returncode == 0
    assert "command: a command for WASI preview 1" in shown.stdout
    assert "wasi_snapshot_preview1.fd_write   func(i32, i32, i32, i32) -> i32  yes" in shown.stdout
    assert "_start" in shown.stdout


@pytest.mark.parametrize("name", ["geometry", "shout", "arithmetic"])
def test_an_inspection_is_a_document_too(program: Program, name: str) -> None:
    shown = program("testers.keepctl", "inspect", str(EXAMPLES / name / f"{name}.wasm"), "--json")
    document = json.loads(shown.stdout)
    assert document["refusals"] == []
    assert document["workload"]["exports"]


def test_a_file_that_a_keep_would_refuse_has_status_1(program: Program, tmp_path: Path) -> None:
    unknown = EXAMPLES.parent / "tests" / "guests" / "unknown_import.wasm"
    shown = program("testers.keepctl", "inspect", str(unknown))
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "env.foo" in shown.stdout
    assert "refused: a keep does not have these imports: env.foo" in shown.stdout
    (text := tmp_path / "app.txt").write_text("print('hello')")
    assert "refused: this is no WebAssembly" in program("testers.keepctl", "inspect", str(text)).stdout
    assert json.loads(program("testers.keepctl", "inspect", str(text), "--json").stdout)["workload"] is None


def test_what_a_file_needs_to_be_switched_on_is_told(program: Program, tmp_path: Path) -> None:
    (module := tmp_path / "a.wasm").write_bytes(
        bytes(wasmtime.wat2wasm('(module (memory i64 1) (type (struct)) (func (export "f")))'))
    )
    shown = program("testers.keepctl", "inspect", str(module))
    assert shown.returncode == 0
    assert 'gc, memory64: off unless Keep.toml has features = ["gc", "memory64"]' in shown.stdout
    document = json.loads(program("testers.keepctl", "inspect", str(module), "--json").stdout)
    assert document["workload"]["features"] == ["gc", "memory64"]


def test_a_program_in_python_is_inspected(program: Program, tmp_path: Path) -> None:
    (source := tmp_path / "app.py").write_text("print('hello')")
    shown = program("testers.keepctl", "inspect", str(source))
    assert (shown.returncode, "python: a program in Python" in shown.stdout) == (0, True)
    source.write_bytes(b"print('\xe9')")
    shown = program("testers.keepctl", "inspect", str(source))
    assert (shown.returncode, "byte 7 is not: save it as UTF-8" in shown.stdout) == (1, True)


@pytest.mark.parametrize("subject", ["none.wasm", "none.py", "none/prices"])
def test_what_is_called_like_a_file_and_is_none_is_missed(program: Program, tmp_path: Path, subject: str) -> None:
    shown = program("testers.keepctl", "inspect", str(tmp_path / subject))
    assert (shown.returncode, f"{subject} does not exist" in shown.stderr) == (1, True)


def test_the_workload_of_a_keep_is_inspected(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    keepctl("create", "--name", "prices")
    empty = keepctl("inspect", "prices")
    assert (empty.returncode, empty.stderr) == (1, "keepctl: the keep prices has no workload loaded: it is empty\n")
    (keep,) = fake.keeps.values()
    keep.described = WorkloadDescription(WorkloadKind.COMMAND, problems=("a workload is stored and cannot be opened",))
    assert "it is empty; a workload is stored and cannot be opened" in keepctl("inspect", "prices").stderr
    keep.described = WorkloadDescription(
        WorkloadKind.COMPONENT,
        (WorkloadImport("wasi:sockets/tcp@0.2.0", "instance", True),),
        (WorkloadExport("area", "func(of: f64) -> f64"),),
        ("no network",),
        exports_omitted=7,
    )
    assert "keepctl: note: no network\n" in keepctl("load", "prices", str(wasm)).stderr
    shown = keepctl("inspect", "prices").stdout
    for part in ("component: ", "wasi:sockets/tcp@0.2.0  instance  yes", "area    func(of: f64) -> f64"):
        assert part in shown
    assert "and 7 more exports" in shown
    assert "note: no network" in shown
    assert json.loads(keepctl("inspect", "prices", "--json").stdout)["kind"] == "component"
