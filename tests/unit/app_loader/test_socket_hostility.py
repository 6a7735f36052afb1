"""Guests that misuse their sockets, and modules that could get round the shim."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app_loader.preview1.descriptor_table import MAX_DESCRIPTORS
from app_loader.preview1.shim_text import PARAMETERS
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import ExitReason
from tests.unit.app_loader.execution_harness import Execution, ending, refused, wat
from tests.unit.app_loader.socket_harness import PORT, configure, listening, play

WASI = "wasi_snapshot_preview1"


def imports(*names: str) -> str:
    return "\n".join(
        f'(import "{WASI}" "{name}" (func ${name} (param {"i32 " * PARAMETERS[name]}) (result i32)))' for name in names
    )


def test_bad_pointers_in_every_call_are_errors_and_traps_of_the_guest_alone(tmp_path: Path) -> None:
    called = [name for name in PARAMETERS if name not in ("poll_oneoff", "fd_close", "fd_renumber", "sock_shutdown")]
    calls = "\n".join(
        f"(if (i32.eqz (call ${name} (i32.const 3) {'(i32.const -16) ' * (PARAMETERS[name] - 1)})) (then unreachable))"
        for name in called
        if name != "fd_fdstat_set_flags"
    )
    poll = "(drop (call $poll_oneoff (i32.const -16) (i32.const -16) (i32.const 1) (i32.const -16)))"
    module = '(module {} (memory (export "memory") 1) (func (export "_start") {}))'

    async def scenario(execution: Execution) -> None:
        await configure(execution, listening())
        await execution.load(wat(module.format(imports(*called), calls)))
        assert ending(await execution.run()).code == 0
        await execution.load(wat(module.format(imports("poll_oneoff"), poll)))
        trapped = ending(await execution.run())
        assert (trapped.reason, trapped.trap) == (ExitReason.TRAP, "memory-out-of-bounds")

    play(tmp_path, scenario)


def test_a_start_section_may_use_sockets(tmp_path: Path) -> None:
    module = f"""(module {imports("fd_write", "fd_fdstat_get")}
      (memory (export "memory") 1)
      (data (i32.const 0) "\\10\\00\\00\\00\\03\\00\\00\\00")
      (data (i32.const 16) "hi\\n")
      (func $start
        (if (call $fd_fdstat_get (i32.const 3) (i32.const 64)) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 6)) (then unreachable))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))))
      (func (export "_start"))
      (start $start))"""

    async def scenario(execution: Execution) -> None:
        await execution.load(wat(module))
        exports = execution.workload.info.exports
        await configure(execution, listening())
        run = await execution.run()
        assert (ending(run).code, await execution.stdout(run)) == (0, b"hi\n")
        assert [export.name for export in exports] == ["memory", "_start"]

    play(tmp_path, scenario)


def test_a_guest_that_takes_ten_thousand_connections_is_stopped_at_its_limit(tmp_path: Path) -> None:
    module = f"""(module {imports("sock_accept")}
      (import "{WASI}" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (local $error i32) (local $count i32)
        (loop $next
          (local.set $error (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 0)))
          (local.set $count (i32.add (local.get $count) (i32.const 1)))
          (br_if $next (i32.and (i32.eqz (local.get $error)) (i32.lt_u (local.get $count) (i32.const 10000)))))
        (call $exit (local.get $error))))"""
    too_many_files = 33

    async def scenario(execution: Execution) -> None:
        await execution.load(wat(module))
        await configure(execution, listening())
        run = await execution.runs.start(RunRequest())
        writers = []
        for _ in range(MAX_DESCRIPTORS):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", execution.network.bound[PORT])
            except OSError:
                break
            writers.append(writer)
        assert ending(await execution.finished(run.id)).code == too_many_files
        for writer in writers:
            writer.close()

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('(module (import "env" "memory" (memory 1)) (func (export "_start")))', ErrorCode.WORKLOAD_INVALID),
        ('(module (memory (export "memory") i64 1) (func (export "_start")))', ErrorCode.FEATURE_OFF),
    ],
)
def test_memories_that_the_shim_cannot_share_are_refused_when_loaded(
    tmp_path: Path, text: str, code: ErrorCode
) -> None:
    async def scenario(execution: Execution) -> None:
        with refused(code):
            await execution.load(wat(text))

    play(tmp_path, scenario)


def test_a_guest_that_hides_its_memory_traps_and_nothing_else(tmp_path: Path) -> None:
    module = f'(module {imports("fd_close")} (memory 1) (func (export "_start") (drop (call $fd_close (i32.const 3)))))'

    async def scenario(execution: Execution) -> None:
        await execution.load(wat(module))
        await configure(execution, listening())
        assert ending(await execution.run()).reason is ExitReason.TRAP

    play(tmp_path, scenario)
