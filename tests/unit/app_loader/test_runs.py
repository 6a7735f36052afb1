"""Tests of `app_loader.runs`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from app_loader.run_admission import MAX_QUEUED
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Mount, RunRequest
from keep_protocol.spec import MiB
from keep_protocol.states import ExitReason, FileArea, RunState
from tests.unit.app_loader.execution_harness import (
    ECHO,
    RETURNS,
    SPINS,
    Execution,
    ending,
    execute,
    guest,
    refused,
    spec,
    stream,
    wat,
)


def test_further_runs_wait_in_a_bounded_queue_in_their_order(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        going = [await keep.runs.start(RunRequest()) for _ in range(2)]
        waiting = [await keep.runs.start(RunRequest()) for _ in range(MAX_QUEUED)]
        assert (keep.runs.active, keep.runs.queued) == (2, MAX_QUEUED)
        assert {run.state for run in waiting} == {RunState.QUEUED}
        with refused(ErrorCode.TOO_MANY_REQUESTS):
            await keep.runs.start(RunRequest())
        stopped = await keep.runs.stop(waiting[1].id)
        assert (ending(stopped).reason, stopped.started_at) == (ExitReason.STOPPED, None)
        await keep.runs.stop(going[0].id)
        assert keep.runs.get(waiting[0].id).state == RunState.RUNNING
        assert keep.runs.get(waiting[2].id).state == RunState.QUEUED
        assert [run.id for run in keep.runs.list()] == [run.id for run in (*going, *waiting)]

    execute(tmp_path, scenario, spec(runs=2))


def test_the_timeout_of_a_queued_run_counts_from_its_start(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("no_stdin"))
        first = await keep.runs.start(RunRequest(args=("1000",)))
        second = await keep.runs.start(RunRequest(args=("0",), timeout=0.9))
        assert ending(await keep.finished(second.id)).reason == ExitReason.CODE
        assert ending(keep.runs.get(first.id)).reason == ExitReason.CODE

    execute(tmp_path, scenario, spec(runs=1))


def test_a_queued_run_gets_the_workload_that_it_was_created_with(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("no_stdin"))
        first = await keep.runs.start(RunRequest(args=("300",)))
        second = await keep.runs.start(RunRequest())
        await keep.load(wat('(module (func (export "_start") unreachable))'))
        assert await keep.stdout(await keep.finished(second.id)) == b"done\n"
        assert ending(await keep.finished(first.id)).code == 0
        assert ending(await keep.run()).reason == ExitReason.TRAP

    execute(tmp_path, scenario, spec(runs=1))


def test_several_runs_go_at_the_same_time(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        runs = [await keep.runs.start(RunRequest(stdin="stream")) for _ in range(4)]
        assert keep.runs.active == 4
        for number, run in reversed(list(enumerate(runs))):
            await keep.runs.feed(run.id, stream(str(number).encode()))
        assert [await keep.stdout(await keep.finished(run.id)) for run in runs] == [b"0", b"1", b"2", b"3"]

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RunRequest(memory=2 * MiB), "memory"),
        (RunRequest(timeout=11), "timeout"),
        (RunRequest(output_limit=1001), "output_limit"),
    ],
)
def test_a_run_may_not_ask_for_more_than_the_spec_allows(tmp_path: Path, request_: RunRequest, field: str) -> None:
    limits = spec(run_time=10, output=1000)
    small = msgspec.structs.replace(limits, limits=msgspec.structs.replace(limits.limits, memory=MiB))

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(RETURNS))
        with pytest.raises(RefusalError) as refusal:
            await keep.runs.start(request_)
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.LIMIT_EXCEEDED, field)

    execute(tmp_path, scenario, small)


def test_without_a_workload_nothing_runs(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.WORKLOAD_EMPTY):
            await keep.runs.start(RunRequest())

    execute(tmp_path, scenario)


@pytest.mark.parametrize("run_id", ["r000000000000000", "../workload", "", "x" * 10_000])
def test_a_run_that_is_not_there_is_not_found(tmp_path: Path, run_id: str) -> None:
    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.RUN_NOT_FOUND):
            keep.runs.get(run_id)
        with refused(ErrorCode.RUN_NOT_FOUND):
            await keep.runs.stop(run_id)
        with refused(ErrorCode.RUN_NOT_FOUND):
            keep.runs.output(run_id, "stdout", offset=0, follow=False)

    execute(tmp_path, scenario)


def test_folders_are_seen_in_the_order_of_the_mounts_and_as_writable_as_they_say(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("prestat"))
        assert await keep.stdout(await keep.run()) == b"|/input|/output|/data|\n"
        swapped = (Mount(guest="/z", area=FileArea.DATA), Mount(guest="/", area=FileArea.INPUT))
        assert await keep.stdout(await keep.run(RunRequest(mounts=swapped))) == b"|/z|/|\n"
        assert await keep.stdout(await keep.run(RunRequest(mounts=()))) == b"|\n"
        await keep.load(guest("write_file"))
        for path, code in (("/input/f", 1), ("/output/f", 0), ("/data/f", 0)):
            assert ending(await keep.run(RunRequest(args=(path, "text")))).code == code
        assert (tmp_path / "files/data/f").read_text() == "text"
        read_only = (Mount(guest="/data", area=FileArea.DATA),)
        assert ending(await keep.run(RunRequest(args=("/data/g", "text"), mounts=read_only))).code == 1

    execute(tmp_path, scenario)


def test_a_mount_below_an_area_is_made_if_it_is_writable_and_never_reached_by_a_link(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("write_file"))
        nested = (Mount(guest="/w", area=FileArea.DATA, path="a/b", writable=True),)
        assert ending(await keep.run(RunRequest(args=("/w/f", "x"), mounts=nested))).code == 0
        assert (tmp_path / "files/data/a/b/f").exists()
        (tmp_path / "files/data/link").symlink_to("/etc")
        for path, writable, code in (
            ("missing", False, ErrorCode.FILE_NOT_FOUND),
            ("link", False, ErrorCode.FILE_PATH_INVALID),
            ("..", False, ErrorCode.FILE_PATH_INVALID),
            ("/etc", False, ErrorCode.FILE_PATH_INVALID),
        ):
            mount = Mount(guest="/x", area=FileArea.DATA, path=path, writable=writable)
            with refused(code):
                await keep.runs.start(RunRequest(mounts=(mount,)))
        with refused(ErrorCode.FIELD_INVALID):
            await keep.runs.start(RunRequest(mounts=(Mount(guest="/i", area=FileArea.INPUT, writable=True),)))
        assert keep.runs.active == 0

    execute(tmp_path, scenario)


def test_a_guest_does_not_get_out_of_its_folders(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("escape"))
        run = await keep.run()
        assert (await keep.stdout(run)).endswith(b"all refused\n")
        assert ending(run).code == 0

    execute(tmp_path, scenario)


def test_one_file_cannot_grow_beyond_the_limit_of_the_keep(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        (tmp_path / "files/data/old").write_bytes(bytes(MiB))
        await keep.load(guest("fill_disk"))
        run = await keep.run(RunRequest(args=("/output/big",)))
        assert await keep.stdout(run) == f"{3 * MiB} EFBIG\n".encode()
        assert ending(run).code == 1

    execute(tmp_path, scenario, spec(files=4 * MiB))


def test_a_guest_whose_files_together_exceed_the_limit_is_killed(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("fill_disk"))
        first = await keep.runs.start(RunRequest(args=("/output/a",)))
        assert ending(await keep.finished(first.id)).code == 1
        await keep.load(wat(SPINS))
        (tmp_path / "files/output/more").write_bytes(bytes(8 * MiB))
        exit_ = ending(await keep.run())
        assert exit_.reason == ExitReason.OUTPUT_LIMIT
        assert exit_.message is not None
        assert "files" in exit_.message

    execute(tmp_path, scenario, spec(files=4 * MiB))
