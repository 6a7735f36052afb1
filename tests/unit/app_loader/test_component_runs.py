"""Runs of components of world `wasi:cli/command`."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunExit, RunRequest, Stdin
from keep_protocol.spec import MiB
from keep_protocol.states import ExitReason, WorkloadKind, WorkloadState
from tests.unit.app_loader.execution_harness import (
    REPOSITORY,
    Execution,
    ending,
    execute,
    refused,
    stream,
    wat,
)

SHOUT = (REPOSITORY / "examples" / "shout" / "shout.wasm").read_bytes()
GEOMETRY = (REPOSITORY / "examples" / "geometry" / "geometry.wasm").read_bytes()


def command(body: str, *, imports: str = "", lowered: str = "", core: str = "", memory: str = "1") -> bytes:
    """A component whose `wasi:cli/run` executes `body`, which leaves an i32: 0 for success."""
    return wat(f"""(component {imports}
      (core module $m {core} (memory (export "memory") {memory})
        (func $main (export "run") (result i32) {body}))
      (core instance $i (instantiate $m {lowered}))
      (func $run (result (result)) (canon lift (core func $i "run")))
      (instance $exported (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $exported)))""")


def leaving(function: str, parameter: str, code: int) -> bytes:
    """A component that ends itself through `wasi:cli/exit`."""
    return command(
        f"(call $leave (i32.const {code})) unreachable",
        imports=f"""(import "wasi:cli/exit@0.2.0" (instance $exit (export "{function}" (func {parameter}))))
          (core func $leave (canon lower (func $exit "{function}")))
          (core instance $host (export "leave" (func $leave)))""",
        lowered='(with "host" (instance $host))',
        core='(import "host" "leave" (func $leave (param i32)))',
    )


def test_arguments_environment_and_streams_reach_the_component(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        info = await keep.load(SHOUT)
        assert (info.state, info.kind) == (WorkloadState.LOADED, WorkloadKind.COMPONENT_COMMAND)
        assert [export.type for export in info.exports] == ["func() -> result"]
        text = base64.b64encode(b"hello, component\n").decode()
        run = await keep.run(RunRequest(stdin=Stdin(text), env={"GREETING": "hi: "}))
        assert ending(run) == RunExit(ExitReason.CODE, code=0)
        assert await keep.stdout(run) == b"HELLO, COMPONENT\n"
        assert await keep.stderr(run) == b"hi: 17 characters\n"

    execute(tmp_path, scenario)


def test_standard_input_is_streamed_to_a_component(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(SHOUT)
        started = await keep.runs.start(RunRequest(stdin="stream"))
        block = b"abc" * 100_000
        await keep.runs.feed(started.id, stream(*[block] * 4))
        run = await keep.finished(started.id)
        assert ending(run).code == 0
        assert await keep.stdout(run) == (block * 4).upper()

    execute(tmp_path, scenario)


def test_a_component_writes_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(SHOUT)
        run = await keep.run(RunRequest(args=("/output/x",), stdin=Stdin(base64.b64encode(b"quiet").decode())))
        assert ending(run).code == 0
        assert (keep.state / "files" / "output" / "x").read_bytes() == b"QUIET"
        refused_run = await keep.run(RunRequest(args=("/input/x",)))
        # `exit` of WASI 0.2 says only that the program failed: its 2 is 1.
        assert ending(refused_run) == RunExit(ExitReason.CODE, code=1)
        assert b"/input/x" in await keep.stderr(refused_run)
        assert not (keep.state / "files" / "input" / "x").exists()

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("component", "code"),
    [
        (command("(i32.const 0)"), 0),
        (command("(i32.const 1)"), 1),
        (leaving("exit", '(param "status" (result))', 0), 0),
        (leaving("exit", '(param "status" (result))', 1), 1),
        (leaving("exit-with-code", '(param "status-code" u8)', 7), 7),
        (leaving("exit-with-code", '(param "status-code" u8)', 255), 255),
        (leaving("exit-with-code", '(param "status-code" u8)', 0), 0),
    ],
    ids=["returns ok", "returns an error", "exit ok", "exit error", "code 7", "code 255", "code 0"],
)
def test_the_exit_status_is_as_exact_as_wasi_tells_it(tmp_path: Path, component: bytes, code: int) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(component)
        assert ending(await keep.run()) == RunExit(ExitReason.CODE, code=code)

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "trap"),
    [
        ("unreachable", "unreachable"),
        ("(i32.div_s (i32.const 1) (i32.const 0))", "integer-division-by-zero"),
        ("(i32.load (i32.const 65536))", "memory-out-of-bounds"),
        ("(i32.trunc_f32_s (f32.const nan))", "bad-conversion-to-integer"),
        ("(i32.div_s (i32.const 0x80000000) (i32.const -1))", "integer-overflow"),
        ("(call $main)", "stack-overflow"),
    ],
)
def test_a_trap_of_a_component_is_named_and_comes_with_a_backtrace(tmp_path: Path, body: str, trap: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(command(body))
        exit_ = ending(await keep.run())
        assert (exit_.reason, exit_.trap, exit_.code) == (ExitReason.TRAP, trap, None)
        assert exit_.message
        assert exit_.backtrace[0].startswith("m!main")

    execute(tmp_path, scenario)


def test_a_component_that_begins_with_too_much_memory_is_refused_it(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(command("(i32.const 0)", memory="1024"))
        assert ending(await keep.run(RunRequest(memory=32 * MiB))).reason == ExitReason.MEMORY
        assert ending(await keep.run(RunRequest(memory=64 * MiB))).code == 0

    execute(tmp_path, scenario)


def test_a_component_that_fills_its_memory_and_traps_ended_by_that(tmp_path: Path) -> None:
    body = """(loop $again
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (memory.fill (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 1048576))
          (i32.const 1) (i32.const 1048576))
        (br $again)) (i32.const 0)"""

    async def scenario(keep: Execution) -> None:
        await keep.load(command(body))
        assert ending(await keep.run(RunRequest(memory=64 * MiB))).reason == ExitReason.MEMORY

    execute(tmp_path, scenario)


def test_a_component_that_never_ends_is_ended_in_time(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(command("(loop $again (br $again)) (i32.const 0)"))
        assert ending(await keep.run(RunRequest(timeout=0.2))).reason == ExitReason.TIMEOUT

    execute(tmp_path, scenario)


def test_a_component_without_a_command_is_not_run(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(GEOMETRY)
        with refused(ErrorCode.WORKLOAD_NOT_RUNNABLE):
            await keep.run()

    execute(tmp_path, scenario)


def test_a_module_without_a_command_is_not_run(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat('(module (func (export "f")))'))
        with refused(ErrorCode.WORKLOAD_NOT_RUNNABLE):
            await keep.run()

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('(component (import "log" (func)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))', "log"),
        (
            """(component (import "wasi:http/types@0.2.0" (instance)) (instance $i)
              (export "wasi:cli/run@0.2.0" (instance $i)))""",
            "wasi:http/types",
        ),
        ('(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))', "0.3.0"),
        ("(component)", "exports nothing"),
        ('(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))', "function `run` .* and has none"),
        (
            '(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))',
            "function `handle` .* and has none",
        ),
        (
            """(component (core module $m (func (export "f"))) (core instance $c (instantiate $m))
              (func $f (canon lift (core func $c "f"))) (instance $i (export "run" (func $f)))
              (export "wasi:cli/run@0.2.0" (instance $i)))""",
            r"has it as func\(\)",
        ),
    ],
)
def test_a_component_that_would_not_work_is_refused_before_it_runs(tmp_path: Path, text: str, reason: str) -> None:
    async def scenario(keep: Execution) -> None:
        with pytest.raises(RefusalError, match=reason) as refusal:
            await keep.load(wat(text))
        assert refusal.value.code == ErrorCode.WORKLOAD_INVALID

    execute(tmp_path, scenario)


def test_a_component_that_is_damaged_does_not_compile(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.COMPILE_FAILED):
            await keep.load(SHOUT[: len(SHOUT) // 2])

    execute(tmp_path, scenario)


def test_a_component_is_there_again_after_a_restart_and_a_module_can_replace_it(tmp_path: Path) -> None:
    async def first(keep: Execution) -> None:
        await keep.load(SHOUT)

    async def second(keep: Execution) -> None:
        assert keep.workload.info.kind == WorkloadKind.COMPONENT_COMMAND
        assert len(keep.workload.info.imports) > 10
        assert keep.workload.summary.imports == ()
        assert ending(await keep.run()).code == 0
        await keep.load(wat('(module (func (export "_start")))'))
        assert ending(await keep.run()).code == 0
        await keep.load(SHOUT)
        assert ending(await keep.run()).code == 0

    execute(tmp_path, first)
    execute(tmp_path, second)


def test_a_component_of_an_earlier_life_that_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    async def first(keep: Execution) -> None:
        await keep.load(SHOUT)

    async def second(keep: Execution) -> None:
        assert ending(await keep.run()).code == 0

    execute(tmp_path, first)
    (compiled,) = (tmp_path / "workload").glob("*.cwasm")
    compiled.write_bytes(compiled.read_bytes()[:-1] + b"x")
    execute(tmp_path, second)


def test_a_failure_under_a_small_limit_is_no_lack_of_memory(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(command("(i32.const 1)"))
        assert ending(await keep.run(RunRequest(memory=MiB))) == RunExit(ExitReason.CODE, code=1)

    execute(tmp_path, scenario)
