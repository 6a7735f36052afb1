"""Tests of `app_loader.run_records`."""

from __future__ import annotations

import os
from pathlib import Path

from app_loader.runs import MAX_REMEMBERED
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import RunExit, RunRequest
from keep_protocol.states import ExitReason
from tests.unit.app_loader.execution_harness import (
    RETURNS,
    SPINS,
    Execution,
    ending,
    execute,
    execute_until_killed,
    full_disk,
    guest,
    refused,
    spec,
    wat,
)


def test_a_run_that_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(RETURNS))
        with full_disk(10), refused(ErrorCode.DISK_FULL):
            await keep.runs.start(RunRequest())
        assert keep.runs.list() == ()
        assert list((tmp_path / "runs").iterdir()) == []
        assert ending(await keep.run()).code == 0

    execute(tmp_path, scenario)


def test_after_sigkill_of_everything_a_run_that_was_going_is_lost_and_the_rest_is_there(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> None:
        await keep.load(guest("flood"))
        await keep.run(RunRequest(args=("stdout", "5")))
        await keep.load(wat(SPINS))
        await keep.spinning(await keep.runs.start(RunRequest()))

    execute_until_killed(tmp_path, first_life)

    async def second_life(keep: Execution) -> None:
        ended, lost = keep.runs.list()
        assert ending(ended).reason == ExitReason.CODE
        assert await keep.stdout(ended) == b"flood"
        assert ending(lost).reason == ExitReason.LOST
        assert ending(await keep.run(RunRequest(timeout=0.05))).reason == ExitReason.TIMEOUT

    execute(tmp_path, second_life)


def test_a_spec_that_says_so_has_interrupted_runs_started_again_under_their_ids(tmp_path: Path) -> None:
    restarting = spec(restart_runs=True, runs=1)
    slow = guest("no_stdin")

    async def first_life(keep: Execution) -> None:
        await keep.load(slow)
        await keep.process_of(await keep.runs.start(RunRequest(args=("500",))))
        await keep.runs.start(RunRequest(args=("1",)))
        await keep.runs.start(RunRequest(args=("1",), stdin="stream"))

    execute_until_killed(tmp_path, first_life, restarting)

    async def second_life(keep: Execution) -> None:
        interrupted = keep.runs.list()
        await keep.runs.resume()
        first, second, streamed = [await keep.finished(run.id) for run in interrupted]
        assert (ending(first).code, ending(second).code) == (0, 0)
        assert await keep.stdout(first) == b"done\n"
        assert ending(streamed).reason == ExitReason.LOST

    execute(tmp_path, second_life, restarting)


def test_stopping_the_keep_stops_its_runs_and_records_why(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        for _ in range(2):
            await keep.runs.start(RunRequest())

    execute(tmp_path, first_life, spec(runs=1))

    async def second_life(keep: Execution) -> None:
        for run in keep.runs.list():
            assert ending(run) == RunExit(ExitReason.STOPPED, message="the keep was stopped")

    execute(tmp_path, second_life)


def test_damaged_and_foreign_records_do_not_stop_a_start(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    damaged = {
        "r000000000000001": b"{",
        "r000000000000002": b"",
        "r000000000000004": b'{"id": "\xff"}',
        "r000000000000005": b'{"x": ' + b"[" * 100_000,
        "notes": b"{}",
    }
    for name, content in damaged.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "record.json").write_bytes(content)
    (runs / "r000000000000003").mkdir()
    (runs / "r000000000000006").mkdir()
    os.mkfifo(runs / "r000000000000006/record.json")
    (runs / "r000000000000007").mkdir()
    (endless := runs / "r000000000000007/record.json").touch()
    os.truncate(endless, 2**40)
    (runs / "file").write_bytes(b"")

    async def scenario(keep: Execution) -> None:
        assert keep.runs.list() == ()
        await keep.load(wat(RETURNS))
        assert ending(await keep.run()).code == 0

    execute(tmp_path, scenario)


def test_only_so_many_runs_are_remembered(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(RETURNS))
        first = await keep.run()
        for _ in range(MAX_REMEMBERED):
            await keep.run()
        assert len(keep.runs.list()) == MAX_REMEMBERED
        with refused(ErrorCode.RUN_NOT_FOUND):
            keep.runs.get(first.id)
        assert len(list((tmp_path / "runs").iterdir())) == MAX_REMEMBERED

    execute(tmp_path, scenario)
