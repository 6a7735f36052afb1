"""What is remembered of calls: how each ended, what it used, and which of them are events."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from app_loader.served import MAX_NAME, MAX_REMEMBERED
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import CallRequest, ServedCounts, ServedUsage
from keep_protocol.served_api import CallRecord
from keep_protocol.spec import MiB
from keep_protocol.states import KeepEventKind, ServedOutcome
from tests.unit.app_loader.execution_harness import PATIENCE, Execution, execute, refused, spec, wat
from tests.unit.app_loader.test_calls import ARITHMETIC, HOSTILE

TOUCHES = """(module (memory (export "memory") 1)
  (func (export "touch") (param $pages i32)
    (drop (memory.grow (local.get $pages)))
    (memory.fill (i32.const 65536) (i32.const 7) (i32.mul (local.get $pages) (i32.const 65536)))))"""


def usage(record: CallRecord) -> ServedUsage:
    assert record.usage is not None
    return record.usage


def test_a_call_says_what_it_used_and_is_remembered(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ARITHMETIC)
        answer = await keep.calls.call("add", CallRequest(arguments=msgspec.Raw(b"[40, 2]")))
        assert answer.usage is not None
        assert 0 < answer.usage.cpu < PATIENCE
        assert 0 < answer.usage.wall < PATIENCE
        assert answer.usage.memory > 4 * MiB
        assert (answer.usage.input, answer.usage.output) == (len(b"[40, 2]"), len(b"42"))
        (record,) = keep.calls.records()
        assert (record.function, record.outcome, record.usage) == ("add", ServedOutcome.ANSWERED, answer.usage)
        assert (record.code, record.trap, record.message) == (None, None, None)
        assert keep.calls.counts == ServedCounts(answered=1)
        # Thousands of these may come a second.
        assert keep.events.page(0, 10).events == ()

    execute(tmp_path, scenario)


def test_each_call_has_its_own_peak_of_memory_and_its_own_processor_time(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(TOUCHES))
        for pages in (0, 0, 1024, 0):
            await keep.call("touch", pages)
        small, large, after = map(usage, keep.calls.records()[1:])
        assert large.memory > small.memory + 48 * MiB
        assert after.memory < large.memory - 48 * MiB
        assert after.cpu < large.cpu

    execute(tmp_path, scenario, spec(runs=1, memory=128 * MiB))


@pytest.mark.parametrize(
    ("function", "outcome", "code"),
    [
        ("spin", ServedOutcome.TIMEOUT, ErrorCode.CALL_TIMEOUT),
        ("deep", ServedOutcome.TRAPPED, ErrorCode.CALL_TRAPPED),
        ("exhaust", ServedOutcome.MEMORY, ErrorCode.CALL_MEMORY),
        ("leave", ServedOutcome.EXITED, ErrorCode.CALL_EXITED),
    ],
)
def test_a_call_that_fails_is_an_event_with_its_reason_and_what_it_used(
    tmp_path: Path, function: str, outcome: ServedOutcome, code: ErrorCode
) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        await keep.call("count")
        with refused(code):
            timeout = 0.5 if function == "spin" else PATIENCE
            await keep.call(function, *((3,) if function == "leave" else ()), timeout=timeout, memory=8 * MiB)
        record = keep.calls.records()[-1]
        assert (record.function, record.outcome, record.code) == (function, outcome, code.value)
        (event,) = keep.events.page(0, 10).events
        assert event.kind is KeepEventKind.CALL_FAILED
        assert (event.detail["function"], event.detail["outcome"]) == (function, outcome.value)
        assert event.detail["message"] == record.message
        assert event.detail.get("trap") == record.trap
        assert float(event.detail["cpu"]) == usage(record).cpu
        if function == "spin":
            # It was killed, so others have asked the kernel; a machine at work gives it less than all of the time.
            assert 0 < usage(record).cpu < usage(record).wall + 0.1
        assert usage(record).memory > 4 * MiB
        assert keep.calls.counts == ServedCounts(answered=1, failed=1)

    execute(tmp_path, scenario)


def test_a_call_that_is_refused_is_no_event_and_tells_nothing_of_its_arguments(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.WORKLOAD_EMPTY):
            await keep.call("add", 1, 2)
        await keep.load(ARITHMETIC)
        with refused(ErrorCode.FIELD_INVALID):
            await keep.call("add", 1, "a secret")
        with refused(ErrorCode.FUNCTION_NOT_FOUND):
            await keep.call("x" * 10_000)
        first, second, third = keep.calls.records()
        assert (first.outcome, first.usage, first.code) == (ServedOutcome.REFUSED, None, "workload-empty")
        assert (second.outcome, second.code, second.message) == (ServedOutcome.REFUSED, "field-invalid", None)
        assert len(third.function) == MAX_NAME
        assert keep.calls.counts == ServedCounts(refused=3)
        assert keep.events.page(0, 10).events == ()

    execute(tmp_path, scenario)


def test_calls_are_counted_while_they_go_and_wait_and_when_nobody_waits_for_them(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(HOSTILE))
        tasks = [asyncio.create_task(keep.call("spin", timeout=PATIENCE)) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            while keep.calls.counts != ServedCounts(active=1, waiting=2):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert keep.calls.counts == ServedCounts(abandoned=3)
        assert {record.outcome for record in keep.calls.records()} == {ServedOutcome.ABANDONED}

    execute(tmp_path, scenario, spec(runs=1, run_time=int(PATIENCE)))


def test_only_the_newest_calls_are_remembered_and_all_are_counted(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        for _ in range(MAX_REMEMBERED + 5):
            with pytest.raises(RefusalError):
                await keep.call("old", 1)
        assert len(keep.calls.records()) == MAX_REMEMBERED
        assert keep.calls.counts.refused == MAX_REMEMBERED + 5

    execute(tmp_path, scenario)
