"""What runs are said to have used, while they go and when they are over."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from keep_protocol.keep_api import Run, RunRequest, RunUsage, Stdin
from keep_protocol.states import ExitReason, KeepEventKind, RunState
from tests.unit.app_loader.execution_harness import ECHO, PATIENCE, SPINS, Execution, ending, execute, guest, spec, wat

MiB = 1024 * 1024


def usage(run: Run) -> RunUsage:
    assert run.usage is not None
    return run.usage


def test_a_run_that_is_over_says_what_it_used_also_after_a_restart(tmp_path: Path) -> None:
    async def first(keep: Execution) -> Run:
        await keep.load(ECHO)
        return await keep.run(RunRequest(stdin=Stdin("aGVsbG8=")))

    run = execute(tmp_path, first)
    used = usage(run)
    assert (used.stdin, used.output) == (5, 5)
    assert 0 < used.cpu < PATIENCE
    assert 0 < used.wall < PATIENCE
    # A run's process begins with what its parent has in memory, which is here the process of the tests.
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 4 * MiB < used.memory < parent + 256 * MiB

    async def second(keep: Execution) -> None:
        assert keep.runs.get(run.id) == run

    execute(tmp_path, second)


def test_processor_time_grows_while_a_run_goes_and_counts_when_it_was_killed(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        async with asyncio.timeout(PATIENCE):
            while usage(live := keep.runs.get(run.id)).cpu < 0.1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert live.state is RunState.RUNNING
        assert usage(live).wall > 0
        stopped = await keep.runs.stop(run.id)
        assert ending(stopped).reason is ExitReason.STOPPED
        assert usage(stopped).cpu >= 0.1
        assert usage(stopped).wall >= usage(live).wall
        assert usage(stopped).output == len("spinning")

    execute(tmp_path, scenario)


def test_memory_is_that_of_the_largest_moment(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        small = usage(await keep.run())
        await keep.load(guest("memspike"))
        assert usage(await keep.run()).memory > small.memory + MiB

    execute(tmp_path, scenario)


def test_a_run_that_waits_has_used_nothing(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        await keep.spinning(await keep.runs.start(RunRequest()))
        waiting = await keep.runs.start(RunRequest())
        assert (waiting.state, waiting.usage) == (RunState.QUEUED, None)

    execute(tmp_path, scenario, spec(runs=1))


def test_the_end_of_a_run_is_an_event_with_reason_and_usage(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        run = await keep.run(RunRequest(stdin=Stdin("aGVsbG8=")))
        (event,) = keep.events.page(0, 10).events
        assert event.kind is KeepEventKind.RUN_ENDED
        assert (event.detail["run"], event.detail["reason"], event.detail["code"]) == (run.id, "code", "0")
        assert (event.detail["stdin"], event.detail["output"]) == ("5", "5")
        assert float(event.detail["cpu"]) == usage(run).cpu
        await keep.load(wat(SPINS))
        spinning = await keep.runs.start(RunRequest())
        await keep.spinning(spinning)
        await keep.runs.stop(spinning.id)
        event = keep.events.page(event.cursor, 10).events[0]
        assert (event.detail["run"], event.detail["reason"]) == (spinning.id, "stopped")
        assert event.detail["message"] == "stopped by request"

    execute(tmp_path, scenario)
