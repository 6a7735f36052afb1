"""Tests of `app_loader.workload`."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from app_loader.compilation import CompileLimits
from app_loader.workload_record import StoredWorkload, WorkloadRecord
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import ExitReason, WorkloadState
from tests.unit.app_loader.execution_harness import (
    RETURNS,
    SPINS,
    Execution,
    execute,
    execute_until_killed,
    full_disk,
    guest,
    spec,
    stream,
    wat,
)
from tests.unit.app_loader.test_compiler import nested_loops

FIRST = wat(RETURNS)
SECOND = wat('(module (func (export "_start") unreachable))')


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def runs_the_first(keep: Execution) -> bool:
    run = await keep.run()
    assert run.exit is not None
    return run.exit.code == 0


def stored(state: Path) -> StoredWorkload:
    return msgspec.json.decode((state / "workload/workload.json").read_bytes(), type=WorkloadRecord).current


def names(state: Path) -> set[str]:
    return {entry.name for entry in (state / "workload").iterdir()}


def test_an_empty_keep_says_so_and_a_loaded_one_what_it_has(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        assert keep.workload.info.state == WorkloadState.EMPTY
        info = await keep.load(FIRST)
        assert keep.workload.info == info
        assert (info.state, info.digest, info.size) == (WorkloadState.LOADED, sha256(FIRST), len(FIRST))
        assert info.loaded_at is not None

    execute(tmp_path, scenario)


def test_an_upload_in_pieces_of_one_byte_is_the_same_upload(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        pieces = stream(*(FIRST[index : index + 1] for index in range(len(FIRST))))
        info = await keep.workload.replace(pieces, expected_digest=hashlib.sha256(FIRST).digest(), size=None)
        assert info.digest == sha256(FIRST)
        assert await runs_the_first(keep)

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "no WebAssembly"),
        (b"\x7fELF\x02\x01\x01\0" + bytes(100), "ELF"),
        (b"\0asm\x0d\0\x01\0" + bytes(10), "exports nothing"),
        (b'(module (func (export "_start")))', "text"),
        (b" (module (memory 1))", "text"),
        (b";; a comment", "text"),
        (b"\0asm", "version"),
        (b"\0asm\x02\0\0\0", "version"),
        (b"\x1f\x8b\x08\0" + bytes(20), "compressed"),
        (b"\0", "no WebAssembly"),
    ],
)
def test_what_is_no_module_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(FIRST)
        with pytest.raises(RefusalError) as refusal:
            await keep.load(content)
        assert refusal.value.code == ErrorCode.WORKLOAD_INVALID
        assert reason in refusal.value.detail
        assert await runs_the_first(keep)
        assert len(names(tmp_path)) == 3

    execute(tmp_path, scenario)


def test_an_upload_that_begins_wrong_is_refused_before_the_rest_is_read(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"not wasm"
            await asyncio.sleep(0)

    async def scenario(keep: Execution) -> None:
        with pytest.raises(RefusalError):
            await keep.workload.replace(endless(), expected_digest=None, size=None)

    execute(tmp_path, scenario)


def test_a_digest_that_does_not_match_is_refused_and_both_are_named(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with pytest.raises(RefusalError) as refusal:
            await keep.workload.replace(stream(FIRST), expected_digest=bytes(32), size=None)
        assert refusal.value.code == ErrorCode.WORKLOAD_DIGEST_MISMATCH
        assert "00" * 32 in refusal.value.detail
        assert sha256(FIRST) in refusal.value.detail
        assert keep.workload.info.state == WorkloadState.EMPTY
        assert names(tmp_path) == set()

    execute(tmp_path, scenario)


@pytest.mark.parametrize("announced", [True, False])
def test_a_workload_beyond_the_limit_is_refused(tmp_path: Path, announced: bool) -> None:
    async def scenario(keep: Execution) -> None:
        with pytest.raises(RefusalError) as refusal:
            await keep.workload.replace(
                stream(FIRST, bytes(100)), expected_digest=None, size=len(FIRST) + 100 if announced else None
            )
        assert refusal.value.code == ErrorCode.BODY_TOO_LARGE
        assert names(tmp_path) == set()

    execute(tmp_path, scenario, spec(workload=len(FIRST)))


def test_an_upload_shorter_than_announced_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        with pytest.raises(RefusalError) as refusal:
            await keep.workload.replace(stream(FIRST), expected_digest=None, size=len(FIRST) + 1)
        assert refusal.value.code == ErrorCode.BODY_INCOMPLETE

    execute(tmp_path, scenario)


def test_an_upload_that_breaks_off_changes_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield SECOND[:20]
        raise ConnectionResetError

    async def scenario(keep: Execution) -> None:
        await keep.load(FIRST)
        with pytest.raises(ConnectionResetError):
            await keep.workload.replace(broken(), expected_digest=None, size=None)
        assert await runs_the_first(keep)
        assert len(names(tmp_path)) == 3

    execute(tmp_path, scenario)


def test_while_one_workload_is_loaded_another_is_refused_and_the_old_one_runs(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(FIRST)
        bomb = nested_loops(2000)
        loading = asyncio.create_task(keep.load(bomb))
        while keep.workload.info.state != WorkloadState.COMPILING:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert keep.workload.info.digest == sha256(bomb)
        with pytest.raises(RefusalError) as busy:
            await keep.load(SECOND)
        assert busy.value.code == ErrorCode.WORKLOAD_BUSY
        assert await runs_the_first(keep)
        with pytest.raises(RefusalError) as limit:
            await loading
        assert limit.value.code == ErrorCode.COMPILE_LIMIT
        assert keep.workload.info.digest == sha256(FIRST)
        assert await runs_the_first(keep)

    execute(tmp_path, scenario, compile_limits=CompileLimits(cpu_seconds=1))


def test_an_upload_that_is_cancelled_ends_its_compilation(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        loading = asyncio.create_task(keep.load(nested_loops(2000)))
        while not keep.runner.pids:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        while keep.runner.pids:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await keep.load(FIRST)
        assert await runs_the_first(keep)

    execute(tmp_path, scenario)


def test_a_run_that_is_going_ends_undisturbed_when_the_workload_is_replaced_or_removed(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("no_stdin"))
        runs = [await keep.runs.start(RunRequest(args=("300",))) for _ in range(2)]
        await keep.load(SECOND)
        await keep.workload.remove()
        assert keep.workload.info.state == WorkloadState.EMPTY
        assert names(tmp_path) == set()
        for run in runs:
            assert await keep.stdout(await keep.finished(run.id)) == b"done\n"

    execute(tmp_path, scenario)


def test_an_upload_that_finds_no_room_on_the_disk_is_refused_and_the_keep_lives(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(FIRST)
        large = guest("list_dir")
        with full_disk(len(large) - 1), pytest.raises(RefusalError) as refusal:
            await keep.load(large)
        assert refusal.value.code == ErrorCode.DISK_FULL
        assert len(names(tmp_path)) == 3
        assert await runs_the_first(keep)

    execute(tmp_path, scenario)


def test_a_new_workload_finds_the_output_empty_and_the_data_kept(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(FIRST)
        for area in ("input", "output", "data"):
            (tmp_path / "files" / area / "folder").mkdir()
            (tmp_path / "files" / area / "folder" / "file").write_text(area)
        (tmp_path / "files/output/link").symlink_to(tmp_path / "files/data/folder")
        await keep.load(SECOND)
        left = {
            area: [entry.name for entry in (tmp_path / "files" / area).iterdir()]
            for area in ("input", "output", "data")
        }
        assert left == {"input": ["folder"], "output": [], "data": ["folder"]}
        assert (tmp_path / "files/data/folder/file").read_text() == "data"

    execute(tmp_path, scenario)


def test_a_workload_is_there_again_after_a_restart(tmp_path: Path) -> None:
    info = execute(tmp_path, lambda keep: keep.load(FIRST))

    async def second_life(keep: Execution) -> None:
        assert keep.workload.info == info
        await keep.workload.warm()
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)


def test_a_damaged_compiled_module_is_made_again_from_the_upload(tmp_path: Path) -> None:
    execute(tmp_path, lambda keep: keep.load(FIRST))
    compiled = tmp_path / "workload" / f"{stored(tmp_path).name}.cwasm"
    content = bytearray(compiled.read_bytes())
    content[len(content) // 2] ^= 1
    compiled.write_bytes(content)

    async def second_life(keep: Execution) -> None:
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)
    assert sha256(compiled.read_bytes()) == stored(tmp_path).compiled_digest


@pytest.mark.parametrize("suffix", ["cwasm", "wasm"])
def test_a_workload_whose_upload_is_damaged_too_is_no_workload(tmp_path: Path, suffix: str) -> None:
    execute(tmp_path, lambda keep: keep.load(FIRST))
    name = stored(tmp_path).name
    (tmp_path / "workload" / f"{name}.cwasm").unlink()
    if suffix == "wasm":
        (tmp_path / "workload" / f"{name}.wasm").write_bytes(SECOND)
    else:
        (tmp_path / "workload" / f"{name}.wasm").unlink()

    async def second_life(keep: Execution) -> None:
        with pytest.raises(RefusalError) as refusal:
            await keep.run()
        assert refusal.value.code == ErrorCode.WORKLOAD_EMPTY
        assert keep.workload.info.state == WorkloadState.EMPTY
        await keep.load(FIRST)
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)


@pytest.mark.parametrize("record", [b"{", b'{"name": "\xff"}'], ids=["truncated", "not-utf-8"])
def test_a_damaged_record_and_foreign_files_do_not_stop_a_start(tmp_path: Path, record: bytes) -> None:
    folder = tmp_path / "workload"
    folder.mkdir()
    (folder / "workload.json").write_bytes(record)
    (folder / "deadbeef.wasm").write_bytes(FIRST)
    (folder / "foreign").mkdir()

    async def scenario(keep: Execution) -> None:
        assert keep.workload.info.state == WorkloadState.EMPTY
        await keep.load(FIRST)
        assert len(names(tmp_path)) == 3

    execute(tmp_path, scenario)


def without_end(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("make", [without_end, os.mkfifo, Path.mkdir], ids=["without an end", "pipe", "folder"])
def test_what_is_no_record_stops_no_start_and_loses_no_workload(tmp_path: Path, make: Callable[[Path], None]) -> None:
    async def first_life(keep: Execution) -> None:
        await keep.load(FIRST)

    execute(tmp_path, first_life)
    record, kept = tmp_path / "workload/workload.json", tmp_path / "kept"
    record.rename(kept)
    make(record)

    async def meanwhile(keep: Execution) -> None:
        assert "workload.json cannot be read" in keep.workload.info.problems[0]
        with pytest.raises(RefusalError) as refusal:
            await keep.run()
        assert refusal.value.code == ErrorCode.WORKLOAD_INVALID

    execute(tmp_path, meanwhile)
    record.rmdir() if record.is_dir() else record.unlink()
    kept.rename(record)

    async def second_life(keep: Execution) -> None:
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)


def test_sigkill_during_an_upload_leaves_the_old_workload(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> None:
        await keep.load(FIRST)
        waiting = asyncio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield SECOND[:20]
            waiting.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(keep.workload.replace(half(), expected_digest=None, size=None))
        await waiting.wait()
        assert not upload.done()
        assert len(names(tmp_path)) == 4

    execute_until_killed(tmp_path, first_life)

    async def second_life(keep: Execution) -> None:
        assert len(names(tmp_path)) == 3
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)


def test_sigkill_during_a_compilation_leaves_the_old_workload(tmp_path: Path) -> None:
    compiling: list[asyncio.Task[object]] = []

    async def first_life(keep: Execution) -> None:
        await keep.load(FIRST)
        compiling.append(asyncio.create_task(keep.load(nested_loops(2000))))
        while not keep.runner.pids:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    execute_until_killed(tmp_path, first_life)

    async def second_life(keep: Execution) -> None:
        assert keep.workload.info.digest == sha256(FIRST)
        assert await runs_the_first(keep)

    execute(tmp_path, second_life)


def test_removing_while_loading_is_refused_and_nothing_runs_after_removing(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.workload.remove()
        with pytest.raises(RefusalError) as refusal:
            await keep.runs.start(RunRequest())
        assert refusal.value.code == ErrorCode.WORKLOAD_EMPTY
        stopped = await keep.runs.stop(run.id)
        assert stopped.exit is not None
        assert stopped.exit.reason == ExitReason.STOPPED

    execute(tmp_path, scenario)
