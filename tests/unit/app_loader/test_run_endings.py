"""Every way in which a run can end, each with its exact reason."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from app_loader.oom import OomKills
from keep_protocol.keep_api import RunExit, RunRequest
from keep_protocol.spec import MiB
from keep_protocol.states import ExitReason, RunState
from tests.unit.app_loader.execution_harness import (
    RETURNS,
    SPINS,
    Execution,
    ending,
    execute,
    guest,
    wat,
)


def test_a_backtrace_has_file_and_line_where_the_module_carries_dwarf(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("lines"))
        backtrace = ending(await keep.run()).backtrace
        assert re.fullmatch(r"main!divide\+0x[0-9a-f]+ at \./lines\.c:3:14", backtrace[0])
        assert re.fullmatch(r"main!main\+0x[0-9a-f]+ at \./lines\.c:8:12", backtrace[1])

    execute(tmp_path, scenario)


@pytest.mark.parametrize("code", [0, 1, 125, 126, 200, 255, 256, 4294967295])
def test_every_exit_code_is_exact(tmp_path: Path, code: int) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("exit_code"))
        run = await keep.run(RunRequest(args=(str(code),)))
        assert ending(run) == RunExit(ExitReason.CODE, code=code)

    execute(tmp_path, scenario)


def test_a_guest_that_returns_exits_with_0(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(RETURNS))
        assert ending(await keep.run()) == RunExit(ExitReason.CODE, code=0)

    execute(tmp_path, scenario)


def test_the_export_without_a_name_is_run_and_its_value_is_no_exit_code(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat('(module (func (export "") (result i32) (i32.const 1)))'))
        assert ending(await keep.run()) == RunExit(ExitReason.CODE, code=0)

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "trap"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer-division-by-zero"),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", "integer-overflow"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", "bad-conversion-to-integer"),
        ("(drop (i32.load (i32.const 65536)))", "memory-out-of-bounds"),
        ("(call_indirect (i32.const 0))", "indirect-call-to-null"),
        ("(call_indirect (i32.const 9))", "table-out-of-bounds"),
        ("(call_indirect (i32.const 1))", "bad-signature"),
        ("(call $main)", "stack-overflow"),
    ],
)
def test_a_trap_is_named_and_comes_with_a_backtrace(tmp_path: Path, body: str, trap: str) -> None:
    text = f"""(module $guest (memory (export "memory") 1) (table 2 funcref) (elem (i32.const 1) $other)
      (func $other (param i32)) (func $main (export "_start") {body}))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        exit_ = ending(await keep.run())
        assert (exit_.reason, exit_.trap, exit_.code) == (ExitReason.TRAP, trap, None)
        assert exit_.message is not None
        assert exit_.message.startswith(("wasm trap: ", "memory fault"))
        assert exit_.backtrace[0].startswith("guest!main")
        assert trap == "stack-overflow" or "+0x" in exit_.backtrace[0]

    execute(tmp_path, scenario)


def test_a_trap_in_the_start_function_is_a_trap_of_the_run(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("start_trap"))
        exit_ = ending(await keep.run())
        assert (exit_.reason, exit_.trap) == (ExitReason.TRAP, "unreachable")

    execute(tmp_path, scenario)


def test_endless_recursion_is_a_trap(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("recurse"))
        assert ending(await keep.run()).trap == "stack-overflow"

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("mode", "code", "trap"), [("", None, "memory-out-of-bounds"), ("trap", None, "unreachable"), ("exit", 9, None)]
)
def test_failing_with_the_memory_used_up_is_the_reason_memory(
    tmp_path: Path, mode: str, code: int | None, trap: str | None
) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("grow"))
        exit_ = ending(await keep.run(RunRequest(args=(mode,), memory=16 * MiB)))
        assert (exit_.reason, exit_.code, exit_.trap) == (ExitReason.MEMORY, code, trap)

    execute(tmp_path, scenario)


def test_a_module_that_starts_larger_than_the_limit_ends_with_the_reason_memory(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("big_init"))
        assert ending(await keep.run(RunRequest(memory=MiB))).reason == ExitReason.MEMORY

    execute(tmp_path, scenario)


def test_a_process_killed_by_a_signal_of_somebody_else_is_a_trap_that_names_it(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        os.kill(await keep.spinning(run), signal.SIGSEGV)
        exit_ = ending(await keep.finished(run.id))
        assert exit_.reason == ExitReason.TRAP
        assert exit_.message is not None
        assert "SIGSEGV" in exit_.message

    execute(tmp_path, scenario)


def test_a_process_that_the_kernel_killed_for_want_of_memory_is_told_from_one_killed_otherwise(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 7\n")

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        for count, reason in ((7, ExitReason.TRAP), (8, ExitReason.MEMORY), (8, ExitReason.TRAP)):
            run = await keep.runs.start(RunRequest())
            pid = await keep.spinning(run)
            events.write_text(f"oom_kill {count}\n")
            os.kill(pid, signal.SIGKILL)
            assert ending(await keep.finished(run.id)).reason == reason

    execute(tmp_path, scenario, oom_kills=OomKills(events))


def test_a_guest_that_spins_is_ended_by_its_timeout(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        assert ending(await keep.run(RunRequest(timeout=0.2))).reason == ExitReason.TIMEOUT

    execute(tmp_path, scenario)


def test_a_guest_that_sleeps_is_ended_by_its_timeout(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("no_stdin"))
        assert ending(await keep.run(RunRequest(args=("600000",), timeout=0.2))).reason == ExitReason.TIMEOUT

    execute(tmp_path, scenario)


def test_a_run_can_be_stopped_and_stopping_again_changes_nothing(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        assert run.state == RunState.RUNNING
        stopped = await keep.runs.stop(run.id)
        assert ending(stopped).reason == ExitReason.STOPPED
        assert await keep.runs.stop(run.id) == stopped
        assert keep.runs.active == 0

    execute(tmp_path, scenario)
