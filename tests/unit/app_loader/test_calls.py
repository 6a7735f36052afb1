"""Calls of a module's functions: their values, their limits, and what a guest can do to them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app_loader import worker_pool
from app_loader.worker_pool import MAX_WAITING
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import CallRequest
from keep_protocol.spec import MiB
from keep_protocol.states import WorkloadKind
from tests.unit.app_loader.execution_harness import (
    PATIENCE,
    REPOSITORY,
    Execution,
    execute,
    refused,
    spec,
    wat,
)

ARITHMETIC = (REPOSITORY / "examples" / "arithmetic" / "arithmetic.wasm").read_bytes()

TYPES = """(module
  (func (export "i32") (param i32) (result i32) (local.get 0))
  (func (export "i64") (param i64) (result i64) (local.get 0))
  (func (export "f32") (param f32) (result f32) (local.get 0))
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "nothing"))
  (func (export "swap") (param i32 f64) (result f64 i32) (local.get 1) (local.get 0))
  (func (export "reference") (param externref)))"""

HOSTILE = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) (global $calls (mut i32) (i32.const 0))
  (func (export "count") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
  (func (export "spin") (loop $again (br $again)))
  (func $deep (export "deep") (call $deep))
  (func (export "leave") (param i32) (call $exit (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "exhaust") (loop $again
    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $again)))
  (func (export "open") (result i32)
    (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)
      (i32.const 0) (i32.const 8))))"""


def refusal_of(state: Path, wasm: bytes, function: str, *arguments: Any) -> RefusalError:
    async def scenario(keep: Execution) -> RefusalError:
        await keep.load(wasm)
        with pytest.raises(RefusalError) as refusal:
            await keep.call(function, *arguments)
        return refusal.value

    return execute(state, scenario)


def test_a_function_of_a_library_is_called(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        info = await keep.load(ARITHMETIC)
        assert info.kind == WorkloadKind.MODULE
        assert await keep.call("add", 40, 2) == 42
        assert await keep.call("mean", 1, 2) == 1.5
        assert await keep.call("multiply", 3037000499, 3037000499) == "9223372030926249001"
        assert await keep.call("fibonacci", 20) == 6765

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("function", "given", "returned"),
    [
        ("i32", 2147483647, 2147483647),
        ("i32", 4294967295, -1),
        ("i32", -2147483648, -2147483648),
        ("i64", 9007199254740991, 9007199254740991),
        ("i64", "9007199254740993", "9007199254740993"),
        ("i64", 9007199254740993, "9007199254740993"),
        ("i64", "18446744073709551615", -1),
        ("i64", "-9223372036854775808", "-9223372036854775808"),
        ("f32", 0.1, 0.10000000149011612),
        ("f32", 16777217, 16777216.0),
        ("f32", "NaN", "NaN"),
        ("f64", 0.1, 0.1),
        ("f64", "Infinity", "Infinity"),
        ("f64", "-Infinity", "-Infinity"),
        ("f64", 1e308, 1e308),
        ("f64", 7, 7.0),
    ],
)
def test_numbers_keep_every_bit(tmp_path: Path, function: str, given: Any, returned: Any) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(TYPES))
        assert await keep.call(function, given) == returned

    execute(tmp_path, scenario)


def test_no_result_is_null_and_several_are_an_array(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(TYPES))
        assert await keep.call("nothing") is None
        assert await keep.call("swap", 1, 2.5) == [2.5, 1]

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("function", "arguments", "field", "words"),
    [
        ("i32", (), "$.arguments[0]", "takes 1 arguments (i32), got 0"),
        ("i32", (1, 2), "$.arguments[1]", "takes 1 arguments (i32), got 2"),
        ("swap", (1, "x"), "$.arguments[1]", "a number"),
        ("i32", (4294967296,), "$.arguments[0]", "from -2147483648 to 4294967295"),
        ("i32", (-2147483649,), "$.arguments[0]", "from -2147483648"),
        ("i32", (1.0,), "$.arguments[0]", "a whole number"),
        ("i32", ("1",), "$.arguments[0]", "a whole number"),
        ("i32", (True,), "$.arguments[0]", "true"),
        ("i32", (None,), "$.arguments[0]", "null"),
        ("i64", ("18446744073709551616",), "$.arguments[0]", "from"),
        ("i64", ("12x",), "$.arguments[0]", "12x"),
        ("i64", ([],), "$.arguments[0]", "an array of 0"),
        ("f32", (1e300,), "$.arguments[0]", "beyond the range of f32"),
        ("f64", ("nan",), "$.arguments[0]", "NaN"),
        ("f64", ({},), "$.arguments[0]", "an object"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    tmp_path: Path, function: str, arguments: tuple[Any, ...], field: str, words: str
) -> None:
    refusal = refusal_of(tmp_path, wat(TYPES), function, *arguments)
    assert (refusal.code, refusal.field) == (ErrorCode.FIELD_INVALID, field)
    assert words in refusal.detail


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (b"[1, 1e400]", "$.arguments[1]"),
        (b"{}", "$.arguments"),
        (b"[" * 100_000 + b"]" * 100_000, "$.arguments"),
        (b"[[" + b"[" * 500 + b"]" * 500 + b"]]", "$.arguments[0]"),
        (b"[123456789012345678901234567890123456789012345678901234567890]", "$.arguments[0]"),
    ],
    ids=["beyond every number", "no array", "nested without end", "nested deeply", "a number without end"],
)
def test_arguments_that_are_no_values_are_refused(tmp_path: Path, arguments: bytes, field: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(TYPES))
        with pytest.raises(RefusalError) as refusal:
            await keep.calls.call("i32" if b"1e400" not in arguments else "swap", CallRequest(msgspec.Raw(arguments)))
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.FIELD_INVALID, field)

    execute(tmp_path, scenario)


def test_an_unknown_function_is_not_found_and_those_that_exist_are_named(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, ARITHMETIC, "subtract", 1, 2)
    assert refusal.code == ErrorCode.FUNCTION_NOT_FOUND
    assert "add, divide, multiply, mean, fibonacci" in refusal.detail


def test_what_is_exported_but_no_function_is_not_found(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, ARITHMETIC, "memory").code == ErrorCode.FUNCTION_NOT_FOUND


def test_a_function_with_ten_thousand_siblings_is_called(tmp_path: Path) -> None:
    exports = "".join(f'(export "f{index}" (func $f))' for index in range(10_000))

    async def scenario(keep: Execution) -> None:
        info = await keep.load(wat(f"(module (func $f (result i32) (i32.const 7)) {exports})"))
        assert info.exports_omitted == 9000
        assert await keep.call("f9999") == 7
        with pytest.raises(RefusalError, match="9980 more"):
            await keep.call("g")

    execute(tmp_path, scenario)


def test_a_type_that_json_has_not_is_refused_by_name(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, wat(TYPES), "reference", None)
    assert refusal.code == ErrorCode.FUNCTION_UNSUPPORTED


def test_a_trap_comes_with_its_name_and_a_backtrace(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, ARITHMETIC, "divide", 1, 0)
    problem = refusal.problem()
    assert (problem.code, problem.status, problem.trap) == ("call-trapped", 502, "integer-division-by-zero")
    assert problem.backtrace[0].startswith("main!function[1]")


def test_a_call_without_a_workload_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.WORKLOAD_EMPTY):
            await keep.call("add", 1, 2)

    execute(tmp_path, scenario)


def test_every_call_has_an_instance_of_its_own(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert [await keep.call("count") for _ in range(3)] == [1, 1, 1]

    execute(tmp_path, scenario)


@pytest.mark.parametrize(("parameter", "ready"), [("", 1), ("(param i32)", 0)], ids=["reactor", "another-type"])
def test_a_reactor_is_initialised_before_its_function_is_called(tmp_path: Path, parameter: str, ready: int) -> None:
    text = f"""(module (global $ready (mut i32) (i32.const 0))
      (func (export "_initialize") {parameter} (global.set $ready (i32.const 1)))
      (func (export "ready") (result i32) (global.get $ready)))"""

    async def scenario(keep: Execution) -> None:
        assert (await keep.load(wat(text))).kind == (WorkloadKind.REACTOR if ready else WorkloadKind.MODULE)
        assert await keep.call("ready") == ready

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("function", "code"),
    [("spin", "call-timeout"), ("deep", "call-trapped"), ("exhaust", "call-memory"), ("leave", "call-exited")],
)
def test_the_next_call_is_answered_whatever_one_does(tmp_path: Path, function: str, code: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        timeout = 0.3 if function == "spin" else 60
        with refused(ErrorCode(code)):
            await keep.call(function, *((3,) if function == "leave" else ()), timeout=timeout, memory=8 * MiB)
        assert await keep.call("count") == 1

    execute(tmp_path, scenario)


def test_memory_ends_at_the_limit_of_the_call(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert await keep.call("grow", 15, memory=MiB) == 1
        assert await keep.call("grow", 16, memory=MiB) == -1

    execute(tmp_path, scenario)


def test_limits_beyond_those_of_the_spec_are_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ARITHMETIC)
        for limit in ({"memory": 2**40}, {"timeout": 10**6}):
            with refused(ErrorCode.LIMIT_EXCEEDED):
                await keep.call("add", 1, 2, **limit)

    execute(tmp_path, scenario)


def test_a_call_has_no_folders(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert await keep.call("open") == 8  # EBADF: there is no preopened descriptor

    execute(tmp_path, scenario)


def test_calls_beyond_the_limit_wait_and_beyond_the_queue_are_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        spinning = [asyncio.create_task(keep.call("spin", timeout=2)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(keep.call("count")) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with refused(ErrorCode.TOO_MANY_REQUESTS):
            await keep.call("count")
        for task in spinning:
            with refused(ErrorCode.CALL_TIMEOUT):
                await task
        assert await asyncio.gather(*waiting) == [1] * MAX_WAITING

    execute(tmp_path, scenario, spec(runs=2))


def test_a_call_that_nobody_waits_for_any_more_is_ended(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert await keep.call("count") == 1
        before = await process_for_calls(keep)
        call = asyncio.create_task(keep.call("spin"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await keep.call("count") == 1
        # Its successor may answer before the kernel has ended it and the runner has told so.
        while before in processes_for_calls(keep):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    execute(tmp_path, scenario, spec(runs=1))


def test_a_process_for_calls_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert await keep.call("count") == 1
        pid = await process_for_calls(keep)
        call = asyncio.create_task(keep.call("spin"))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RefusalError, match="SIGKILL"):
            await call
        assert await keep.call("count") == 1

    execute(tmp_path, scenario, spec(runs=1))


def test_a_call_is_refused_when_the_keep_stops(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        assert await keep.call("count") == 1
        call = asyncio.create_task(keep.call("spin"))
        await asyncio.sleep(0)
        keep.calls.close()
        with refused(ErrorCode.CALL_LOST):
            await call

    execute(tmp_path, scenario)


def test_another_workload_is_called_as_soon_as_it_is_loaded(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        for value in (1, 2, 3):
            await keep.load(wat(f'(module (func (export "value") (result i32) (i32.const {value})))'))
            assert await keep.call("value") == value

    execute(tmp_path, scenario)


def test_a_process_without_calls_ends_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "IDLE_SECONDS", 0.01)

    async def scenario(keep: Execution) -> None:
        await keep.load(ARITHMETIC)
        assert await keep.call("add", 1, 2) == 3
        while processes_for_calls(keep):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await keep.call("add", 1, 2) == 3

    execute(tmp_path, scenario)


def test_an_instance_keeps_its_state_only_if_it_is_to_be_used_again(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        async def count(*, reuse: bool) -> Any:
            request = CallRequest(arguments=msgspec.Raw(b"[]"))
            return msgspec.json.decode((await keep.calls.call("count", request, reuse=reuse)).result)

        await keep.load(wat(HOSTILE))
        assert [await count(reuse=True) for _ in range(3)] == [1, 2, 3]
        # What is wrong with a call is not the instance's fault.
        with refused(ErrorCode.FUNCTION_NOT_FOUND):
            await keep.calls.call("nothing", CallRequest(arguments=msgspec.Raw(b"[]")), reuse=True)
        assert await count(reuse=True) == 4
        # The configuration was changed.
        assert await count(reuse=False) == 1
        assert [await count(reuse=True) for _ in range(2)] == [1, 2]
        # Whoever allows less memory gets an instance that has less.
        small = CallRequest(arguments=msgspec.Raw(b"[]"), memory=MiB)
        assert bytes((await keep.calls.call("count", small, reuse=True)).result) == b"1"
        with refused(ErrorCode.CALL_TRAPPED):
            await keep.calls.call("deep", small, reuse=True)
        assert bytes((await keep.calls.call("count", small, reuse=True)).result) == b"1"

    execute(tmp_path, scenario)


async def process_for_calls(keep: Execution) -> int:
    """The pid of the only one. It may have answered before the runner says which it is."""
    async with asyncio.timeout(PATIENCE):
        while not (found := processes_for_calls(keep)):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    (pid,) = found
    return pid


def processes_for_calls(keep: Execution) -> list[int]:
    return [pid for name, pid in keep.runner.pids.items() if name.startswith("calls-")]
