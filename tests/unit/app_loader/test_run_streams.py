"""What goes into and comes out of a run: standard input, output, followers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import Run, RunRequest, Stdin
from keep_protocol.spec import MiB
from keep_protocol.states import ExitReason, RunState
from tests.unit.app_loader.execution_harness import (
    ECHO,
    SPINS,
    Execution,
    ending,
    execute,
    full_disk,
    guest,
    refused,
    stream,
    wat,
)


@pytest.mark.parametrize("stream_name", ["stdout", "stderr"])
def test_a_flood_is_cut_at_exactly_the_limit(tmp_path: Path, stream_name: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        run = await keep.run(RunRequest(args=(stream_name,), output_limit=100_001))
        assert ending(run).reason == ExitReason.OUTPUT_LIMIT
        assert (run.stdout, run.stderr) == ((100_001, 0) if stream_name == "stdout" else (0, 100_001))

    execute(tmp_path, scenario)


def test_output_of_exactly_the_limit_is_allowed_and_one_byte_more_is_not(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        for limit, reason in ((70_000, ExitReason.CODE), (69_999, ExitReason.OUTPUT_LIMIT)):
            run = await keep.run(RunRequest(args=("stdout", "70000"), output_limit=limit))
            assert ending(run).reason == reason
            assert run.stdout == limit

    execute(tmp_path, scenario)


def test_the_server_answers_while_guests_flood(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        floods = [await keep.runs.start(RunRequest(output_limit=64 * MiB)) for _ in range(3)]
        turns = 0
        while any(keep.runs.get(run.id).state != RunState.EXITED for run in floods):
            await asyncio.sleep(0)
            turns += 1
        # Each turn of the loop reads a block of each stream at most: so this many turns were had at least.
        assert turns > 64 * MiB // (64 * 1024)

    execute(tmp_path, scenario)


def test_output_that_finds_no_room_on_the_disk_ends_the_run_and_not_the_keep(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        with full_disk(100_000):
            run = await keep.run()
        exit_ = ending(run)
        assert exit_.reason == ExitReason.OUTPUT_LIMIT
        assert exit_.message is not None
        assert exit_.message.startswith("disk full")
        assert len(await keep.stdout(run)) == run.stdout == 100_000
        assert ending(await keep.run(RunRequest(args=("stdout", "5")))).code == 0

    execute(tmp_path, scenario)


def test_arguments_environment_and_program_arrive_and_nothing_of_the_host_does(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("args_env"))
        run = await keep.run(RunRequest(args=("", "two words", "ä"), program="tool", env={"B": "2", "A": "=1"}))
        expected = "arg tool\narg \narg two words\narg ä\nenv A==1\nenv B=2\n"
        assert (await keep.stdout(run)).decode() == expected

    execute(tmp_path, scenario)


def test_input_given_with_the_request_is_read_to_its_end(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        run = await keep.run(RunRequest(stdin=Stdin(base64="aGVsbG8K")))
        assert await keep.stdout(run) == b"hello\n"
        assert ending(run).code == 0

    execute(tmp_path, scenario)


def test_input_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        with refused(ErrorCode.FIELD_INVALID):
            await keep.runs.start(RunRequest(stdin=Stdin(base64="*")))

    execute(tmp_path, scenario)


def test_streamed_input_flows_with_back_pressure_while_output_is_followed(tmp_path: Path) -> None:
    size, block = 8 * MiB, 100_000
    given = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        while given < size:
            part = min(block, size - given)
            given += part
            yield b"x" * part

    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        run = await keep.runs.start(RunRequest(stdin="stream"))
        _, first, second = await asyncio.gather(
            keep.runs.feed(run.id, source()),
            keep.stdout(run, follow=True),
            keep.stdout(run, follow=True),
        )
        assert first == second == b"x" * size
        assert ending(await keep.finished(run.id)).code == 0

    execute(tmp_path, scenario)


def test_feeding_a_guest_that_never_reads_ends_when_the_guest_does(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("no_stdin"))
        run = await keep.runs.start(RunRequest(args=("50",), stdin="stream"))
        await keep.runs.feed(run.id, stream(*[b"x" * MiB] * 4))
        assert ending(await keep.finished(run.id)).code == 0

    execute(tmp_path, scenario)


def test_feeding_a_guest_that_never_reads_does_not_keep_it_from_being_stopped(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest(stdin="stream"))
        feeding = asyncio.create_task(keep.runs.feed(run.id, stream(*[b"x" * MiB] * 4)))
        await keep.spinning(run)
        assert ending(await keep.runs.stop(run.id)).reason == ExitReason.STOPPED
        await feeding

    execute(tmp_path, scenario)


def test_input_that_breaks_off_does_not_look_like_a_whole_one(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    async def scenario(keep: Execution) -> None:
        await keep.load(ECHO)
        run = await keep.runs.start(RunRequest(stdin="stream"))
        with pytest.raises(ConnectionResetError):
            await keep.runs.feed(run.id, broken())
        assert ending(await keep.finished(run.id)).reason == ExitReason.STOPPED

    execute(tmp_path, scenario)


def test_input_is_sent_once_and_only_to_runs_that_stream_it_and_still_go(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        plain = await keep.runs.start(RunRequest())
        with refused(ErrorCode.STDIN_CONFLICT):
            await keep.runs.feed(plain.id, stream(b""))
        streamed = await keep.runs.start(RunRequest(stdin="stream"))
        await keep.runs.feed(streamed.id, stream(b"all"))
        with refused(ErrorCode.STDIN_CONFLICT):
            await keep.runs.feed(streamed.id, stream(b"more"))
        await keep.runs.stop(streamed.id)
        with refused(ErrorCode.RUN_STATE_CONFLICT):
            await keep.runs.feed(streamed.id, stream(b"late"))

    execute(tmp_path, scenario)


def test_output_is_read_from_any_offset_that_it_has(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        run = await keep.run(RunRequest(args=("stdout", "200000")))
        whole = await keep.stdout(run)
        assert len(whole) == 200_000
        assert await keep.stdout(run, offset=199_990, follow=True) == whole[199_990:]
        assert await keep.stdout(run, offset=200_000) == b""
        for offset in (200_001, -1):
            with refused(ErrorCode.OFFSET_INVALID):
                keep.runs.output(run.id, "stdout", offset=offset, follow=False)

    execute(tmp_path, scenario)


def test_a_follower_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("flood"))
        run = await keep.runs.start(RunRequest(output_limit=MiB))
        before = len(os.listdir("/proc/self/fd"))
        output = keep.runs.output(run.id, "stdout", offset=0, follow=True)
        assert await anext(output)
        await output.aclose()  # type: ignore[attr-defined]
        assert ending(await keep.finished(run.id)).reason == ExitReason.OUTPUT_LIMIT
        assert len(os.listdir("/proc/self/fd")) <= before

    execute(tmp_path, scenario)


def test_waiting_returns_a_run_that_still_goes_when_the_time_is_over(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        assert (await keep.runs.wait(run.id, 0.01)).state == RunState.RUNNING

    execute(tmp_path, scenario)


def test_records_and_outputs_survive_a_restart(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> Run:
        await keep.load(guest("args_env"))
        return await keep.run(RunRequest(program="tool"))

    run = execute(tmp_path, first_life)

    async def second_life(keep: Execution) -> None:
        assert keep.runs.list() == (run,)
        assert await keep.stdout(run) == b"arg tool\n"
        assert (await keep.run()).id > run.id

    execute(tmp_path, second_life)
