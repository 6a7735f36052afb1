"""A sealed keep's runs: plaintext in memory while they go, sealed when they end, never half of anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app_loader.plaintext_memory import plaintext_folder
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Mount, RunRequest
from keep_protocol.spec import MiB
from keep_protocol.states import AtRest, ExitReason, FileArea, RunState, WorkloadState
from tests.unit.app_loader.at_rest.sealed_keep import (
    CANARY,
    DATA,
    INPUT,
    OTHER_KEY,
    OUTPUT,
    SEALED,
    get,
    on_disk,
    plaintext,
    put,
    write,
)
from tests.unit.app_loader.execution_harness import (
    HOST_KEY,
    SPINS,
    Execution,
    ending,
    execute,
    execute_until_killed,
    guest,
    refused,
    spec,
    wat,
)


def test_guests_and_clients_see_files_and_the_disk_sees_none(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        await put(keep, "secret", CANARY, INPUT)
        await put(keep, "deep/secret", CANARY)
        run = await keep.run(RunRequest(args=("/input/secret", "/data/deep/secret")))
        assert await keep.stdout(run) == 2 * CANARY
        await keep.load(guest("write_file"))
        await write(keep, "/output/result", CANARY.decode())
        assert await get(keep, "result", OUTPUT) == CANARY
        (entry,) = (await keep.files.list(OUTPUT, "")).entries
        assert entry.size == len(CANARY)
        assert await keep.files.used() == 3 * len(CANARY)
        assert plaintext(tmp_path) == []

    execute(tmp_path, scenario, SEALED)
    assert on_disk(tmp_path, CANARY) == []


def test_workload_files_and_output_are_there_after_a_restart(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> str:
        await keep.load(guest("write_file"))
        await write(keep, "/data/kept", "text")
        await keep.load(guest("read_file"))
        return (await keep.run(RunRequest(args=("/data/kept",)))).id

    run_id = execute(tmp_path, first_life, SEALED)

    async def second_life(keep: Execution) -> None:
        assert await keep.stdout(keep.runs.get(run_id)) == b"text"
        assert await keep.stdout(await keep.run(RunRequest(args=("/data/kept",)))) == b"text"

    execute(tmp_path, second_life, SEALED)
    assert on_disk(tmp_path, guest("read_file")[:64]) == []


def test_a_run_that_changes_nothing_leaves_the_sealed_files_alone_and_one_that_does_only_the_others(
    tmp_path: Path,
) -> None:
    async def scenario(keep: Execution) -> None:
        for name in ("a", "b"):
            await put(keep, name, name.encode())
            old = tmp_path / "files/data" / name
            os.utime(old, (1, 1))
        before = {name: (tmp_path / "files/data" / name).stat().st_ino for name in ("a", "b")}
        await keep.load(guest("read_file"))
        await keep.run(RunRequest(args=("/data/a",)))
        assert {name: (tmp_path / "files/data" / name).stat().st_ino for name in before} == before
        await keep.load(guest("write_file"))
        await write(keep, "/data/b", "B")
        assert (tmp_path / "files/data/a").stat().st_ino == before["a"]
        assert (await get(keep, "a"), await get(keep, "b")) == (b"a", b"B")

    execute(tmp_path, scenario, SEALED)


def test_an_interrupted_run_leaves_the_folders_as_they_were_sealed_last(tmp_path: Path) -> None:
    async def interrupted(keep: Execution) -> None:
        await keep.load(guest("write_file"))
        await write(keep, "/data/state", "sealed")
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        view = keep.files.mounted(DATA)
        (view / "state").write_bytes(CANARY)
        (view / "more").write_bytes(CANARY)
        assert await get(keep, "state") == CANARY

    execute_until_killed(tmp_path, interrupted, SEALED)
    assert on_disk(tmp_path, CANARY) == []

    async def second_life(keep: Execution) -> None:
        assert [run for run in keep.runs.list() if run.exit and run.exit.reason is ExitReason.LOST]
        assert await get(keep, "state") == b"sealed"
        assert [entry.name for entry in (await keep.files.list(DATA, "")).entries] == ["state"]

    execute(tmp_path, second_life, SEALED)
    folder = plaintext_folder(tmp_path)
    assert folder is not None
    assert not folder.parent.exists()


@pytest.mark.parametrize(("whole", "wanted"), [(True, b"new"), (False, b"old")])
def test_a_state_takes_the_place_of_the_last_one_whole_or_not_at_all(
    tmp_path: Path, whole: bool, wanted: bytes
) -> None:
    async def first_life(keep: Execution) -> None:
        await put(keep, "f", b"old")
        (tmp_path / "kept").write_bytes((tmp_path / "files/data/f").read_bytes())
        await put(keep, "f", b"new")

    execute(tmp_path, first_life, SEALED)
    files = tmp_path / "files"
    (files / ".sealing-next-data").mkdir()
    (files / "data/f").rename(files / ".sealing-next-data/f")
    (tmp_path / "kept").rename(files / "data/f")
    if whole:
        # Killed between the two renames.
        (files / "data").rename(files / ".sealing-last-data")

    async def second_life(keep: Execution) -> None:
        assert await get(keep, "f") == wanted

    execute(tmp_path, second_life, SEALED)
    assert {path.name for path in files.iterdir()} == set(FileArea)


def test_runs_that_go_together_share_their_folders_and_what_each_wrote_is_sealed_at_its_end(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        going = await keep.runs.start(RunRequest())
        await keep.spinning(going)
        await keep.load(guest("write_file"))
        await write(keep, "/data/of-the-second", "x")
        assert (tmp_path / "files/data/of-the-second").exists()
        (keep.files.mounted(DATA) / "of-the-first").write_bytes(b"y")
        assert await get(keep, "of-the-first") == b"y"
        await keep.runs.stop(going.id)
        assert (await get(keep, "of-the-first"), await get(keep, "of-the-second")) == (b"y", b"x")
        assert plaintext(tmp_path) == []

    execute(tmp_path, scenario, SEALED)


def test_what_clients_put_and_remove_while_a_run_goes_it_sees_and_the_disk_has(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await put(keep, "gone", b"x", INPUT)
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        view = keep.files.mounted(INPUT)
        await put(keep, "new/file", CANARY, INPUT)
        await keep.files.delete(INPUT, "gone")
        await keep.files.make_folder(INPUT, "folder/")
        assert (view / "new/file").read_bytes() == CANARY
        assert sorted(path.name for path in view.iterdir()) == ["folder", "new"]
        assert (tmp_path / "files/input/new/file").exists()
        assert not (tmp_path / "files/input/gone").exists()
        await put(keep, "late", b"late")
        (keep.files.mounted(DATA) / "of-the-run").write_bytes(b"z")
        await keep.runs.stop(run.id)
        assert (await get(keep, "new/file", INPUT), await get(keep, "late")) == (CANARY, b"late")
        assert await get(keep, "of-the-run") == b"z"

    execute(tmp_path, scenario, SEALED)


def test_files_that_do_not_fit_into_memory_are_refused_before_the_run(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("write_file"))
        await put(keep, "large", bytes(17 * MiB))
        with pytest.raises(RefusalError, match=r"limits\.memory") as refusal:
            await keep.run()
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.LIMIT_EXCEEDED, "$.mounts")
        assert plaintext(tmp_path) == []
        without = (Mount(guest="/output", area=OUTPUT, writable=True),)
        assert ending(await keep.run(RunRequest(args=("/output/f", "x"), mounts=without))).code == 0

    execute(tmp_path, scenario, spec(at_rest=AtRest.SEALED, memory=64 * MiB))


def test_a_run_whose_files_exceed_the_limit_says_that_they_are_not_kept(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await put(keep, "kept", b"x")
        await keep.load(guest("write_file"))
        await write(keep, "/data/f", "1")
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        # More than a guest could: the kernel bounds what it writes.
        (keep.files.mounted(DATA) / "more").write_bytes(bytes(2 * MiB))
        exit_ = ending(await keep.runs.stop(run.id))
        assert exit_.reason is ExitReason.OUTPUT_LIMIT
        assert exit_.message is not None
        assert "not kept" in exit_.message
        assert [entry.name for entry in (await keep.files.list(DATA, "")).entries] == ["f", "kept"]

    execute(tmp_path, scenario, spec(at_rest=AtRest.SEALED, files=MiB))


def test_rotated_keys_seal_anew_and_open_the_old(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        await put(keep, "old", b"old")

    execute(tmp_path, first_life, SEALED)

    async def second_life(keep: Execution) -> None:
        await put(keep, "new", b"new")
        run = await keep.run(RunRequest(args=("/data/old", "/data/new")))
        assert await keep.stdout(run) == b"oldnew"

    execute(tmp_path, second_life, SEALED, host_keys=(OTHER_KEY, HOST_KEY))


def test_a_keep_whose_key_is_gone_says_so_and_loses_nothing(tmp_path: Path) -> None:
    async def first_life(keep: Execution) -> str:
        await keep.load(guest("read_file"))
        await put(keep, "old", b"old")
        return (await keep.run(RunRequest(args=("/data/old",)))).id

    run_id = execute(tmp_path, first_life, SEALED)

    async def without_the_key(keep: Execution) -> None:
        assert keep.workload.info.state is WorkloadState.EMPTY
        assert "cannot be opened" in keep.workload.info.problems[0]
        with refused(ErrorCode.SEALING_KEY_UNKNOWN):
            await keep.run()
        with pytest.raises(RefusalError, match="files/data/old: the key host"):
            keep.files.open(DATA, "old")
        assert keep.runs.list() == ()
        await put(keep, "new", b"new")
        assert await get(keep, "new") == b"new"
        await keep.files.delete(DATA, "new")

    execute(tmp_path, without_the_key, SEALED, host_keys=(OTHER_KEY,))

    async def with_it_again(keep: Execution) -> None:
        assert keep.runs.get(run_id).state is RunState.EXITED
        assert await keep.stdout(await keep.run(RunRequest(args=("/data/old",)))) == b"old"

    execute(tmp_path, with_it_again, SEALED)


def test_a_damaged_file_refuses_the_run_by_its_name(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        await put(keep, "a/b", b"content")
        path = tmp_path / "files/data/a/b"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(RefusalError, match="files/data/a/b: it was changed") as refusal:
            await keep.run()
        assert refusal.value.code is ErrorCode.SEALED_INVALID
        assert keep.runs.active == 0
        assert plaintext(tmp_path) == []

    execute(tmp_path, scenario, SEALED)


def test_a_damaged_module_is_compiled_again_and_a_damaged_upload_is_no_workload(tmp_path: Path) -> None:
    execute(tmp_path, lambda keep: keep.load(guest("args_env")), SEALED)
    (compiled,) = (tmp_path / "workload").glob("*.cwasm")
    compiled.write_bytes(compiled.read_bytes()[:-1])

    async def second_life(keep: Execution) -> None:
        assert await keep.stdout(await keep.run(RunRequest(program="p"))) == b"arg p\n"

    execute(tmp_path, second_life, SEALED)
    (compiled,) = (tmp_path / "workload").glob("*.cwasm")
    (source,) = (tmp_path / "workload").glob("*.wasm")
    compiled.write_bytes(b"")
    source.write_bytes(b"")

    async def third_life(keep: Execution) -> None:
        with refused(ErrorCode.WORKLOAD_EMPTY):
            await keep.run()

    execute(tmp_path, third_life, SEALED)


def test_a_run_without_mounts_opens_nothing(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await put(keep, "f", b"x")
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest(mounts=()))
        await keep.spinning(run)
        assert plaintext(tmp_path) == []
        assert keep.files.views == {}

    execute(tmp_path, scenario, SEALED)


def test_runs_that_wait_hold_no_plaintext_and_see_what_is_there_when_they_begin(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        first = await keep.runs.start(RunRequest(mounts=()))
        await keep.load(guest("read_file"))
        second = await keep.runs.start(RunRequest(args=("/data/late",)))
        third = await keep.runs.start(RunRequest())
        assert plaintext(tmp_path) == []
        await put(keep, "late", b"late")
        await keep.runs.stop(third.id)
        await keep.runs.stop(first.id)
        assert await keep.stdout(await keep.finished(second.id)) == b"late"

    execute(tmp_path, scenario, spec(at_rest=AtRest.SEALED, runs=1))
