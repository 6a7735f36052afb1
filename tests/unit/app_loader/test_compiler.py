"""Tests of `app_loader.compiler`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest

from app_loader.compilation import CompileLimits, compile_file, died
from app_loader.compiler import first_line
from app_loader.runner_messages import Ended
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import MiB
from tests.unit.app_loader.execution_harness import PATIENCE, RETURNS, Execution, execute, wat


def nested_loops(depth: int) -> bytes:
    """Small, and seconds of work for a register allocator: every level keeps all others' values alive."""
    head = "".join(
        f"(loop $l{level} (local.set {level % 50} (i32.add (local.get {(level + 1) % 50}) (i32.const 1)))"
        for level in range(depth)
    )
    tail = "".join(f"(br_if $l{level} (local.get {level % 50})))" for level in reversed(range(depth)))
    return wat(f'(module (func (export "_start") (local {"i32 " * 50}) {head}{tail}))')


def compile_in(tmp_path: Path, wasm: bytes, limits: CompileLimits | None = None) -> str:
    """The digest of the compiled module."""

    async def scenario(keep: Execution) -> str:
        source, target = tmp_path / "workload/a.wasm", tmp_path / "workload/a.cwasm"
        source.write_bytes(wasm)
        compiled = await compile_file(keep.runner, source, target, limits or CompileLimits())
        assert compiled.source == hashlib.sha256(wasm).hexdigest()
        assert compiled.digest == hashlib.sha256(target.read_bytes()).hexdigest()
        assert keep.runner.pids == {}
        return compiled.digest

    return execute(tmp_path, scenario)


def refusal_of(tmp_path: Path, wasm: bytes, limits: CompileLimits | None = None) -> RefusalError:
    with pytest.raises(RefusalError) as refusal:
        compile_in(tmp_path, wasm, limits)
    return refusal.value


def test_a_module_is_compiled_and_digested(tmp_path: Path) -> None:
    assert len(compile_in(tmp_path, wat(RETURNS))) == 64


def test_a_module_that_is_invalid_is_refused_with_the_compilers_reason(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, wat(RETURNS)[:-3])
    assert refusal.code == ErrorCode.COMPILE_FAILED
    assert "unexpected end" in refusal.detail
    assert "\n" not in refusal.detail


def test_all_unknown_imports_are_named_at_once(tmp_path: Path) -> None:
    text = """(module (import "env" "a" (func))
      (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
      (import "wasi_unstable" "fd_write" (func)) (import "env" "memory" (memory 1)) (func (export "_start")))"""
    refusal = refusal_of(tmp_path, wat(text))
    assert refusal.code == ErrorCode.WORKLOAD_INVALID
    assert "env.a, wasi_unstable.fd_write, env.memory;" in refusal.detail


def test_an_import_of_another_type_is_refused(tmp_path: Path) -> None:
    text = '(module (import "wasi_snapshot_preview1" "proc_exit" (func)) (func (export "_start")))'
    refusal = refusal_of(tmp_path, wat(text))
    assert refusal.code == ErrorCode.WORKLOAD_INVALID
    assert "proc_exit" in refusal.detail


@pytest.mark.parametrize(
    "text",
    [
        "(module)",
        '(module (memory (export "_start") 1))',
        '(module (func (export "_initialize")))',
    ],
)
def test_a_module_without_a_function_to_run_or_to_call_is_refused(tmp_path: Path, text: str) -> None:
    refusal = refusal_of(tmp_path, wat(text))
    assert refusal.code == ErrorCode.WORKLOAD_INVALID
    assert "_start" in refusal.detail


def test_what_a_module_lacks_is_named_by_what_it_has(tmp_path: Path) -> None:
    text = '(module (memory (export "memory") 1) (global (export "version") i32 (i32.const 1)))'
    assert "'memory', 'version'" in refusal_of(tmp_path, wat(text)).detail


def test_a_compilation_that_takes_too_much_processor_time_is_ended(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, nested_loops(2000), CompileLimits(cpu_seconds=1))
    assert refusal.code == ErrorCode.COMPILE_LIMIT
    assert "1 s of processor time" in refusal.detail


def test_a_compilation_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, nested_loops(2000), CompileLimits(wall_seconds=0.2))
    assert refusal.code == ErrorCode.COMPILE_LIMIT
    assert "0.2 s" in refusal.detail


def test_a_compilation_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, nested_loops(2000), CompileLimits(address_space=160 * MiB))
    assert refusal.code == ErrorCode.COMPILE_LIMIT, refusal.detail
    assert "160 MiB" in refusal.detail


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_compiler_that_crashes_is_not_told_as_a_limit(
    tmp_path: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(keep: Execution) -> RefusalError:
        source, target = tmp_path / "workload/a.wasm", tmp_path / "workload/a.cwasm"
        source.write_bytes(nested_loops(2000))
        compiling = asyncio.create_task(compile_file(keep.runner, source, target, CompileLimits()))
        async with asyncio.timeout(PATIENCE):
            while not keep.runner.pids:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        (pid,) = keep.runner.pids.values()
        os.kill(pid, number)
        with pytest.raises(RefusalError) as refusal:
            await compiling
        return refusal.value

    refusal = execute(tmp_path, scenario)
    assert (refusal.code, refusal.detail) == (ErrorCode.COMPILE_FAILED, f"the compiler crashed with {number.name}")
    assert f"the compiler ended with {number.name}" in caplog.text


def test_a_panic_is_told_from_want_of_memory_by_what_was_written() -> None:
    aborted = Ended("compilation-1", signal=signal.SIGABRT)
    panic = b"\nthread '<unnamed>' panicked at cranelift/x.rs:1:2:\nassertion failed\x1b[2J\n"
    refusal = died(aborted, panic, CompileLimits())
    assert refusal.code == ErrorCode.COMPILE_FAILED
    assert refusal.detail == "the compiler crashed with SIGABRT: thread '<unnamed>' panicked at cranelift/x.rs:1:2:"
    refusal = died(aborted, b"memory allocation of 12546688 bytes failed\nstack backtrace:\n", CompileLimits())
    assert (refusal.code, "2048 MiB" in refusal.detail) == (ErrorCode.COMPILE_LIMIT, True)
    refusal = died(Ended("compilation-1", code=1), b"Traceback (most recent call last):\n", CompileLimits())
    assert refusal.detail == "the compiler crashed with code 1: Traceback (most recent call last):"


def test_an_error_of_several_lines_becomes_one() -> None:
    assert (
        first_line("failed to parse\n\nCaused by:\n    0: why\n    1: really why\n") == "failed to parse: 1: really why"
    )
    assert first_line("alone") == "alone"
