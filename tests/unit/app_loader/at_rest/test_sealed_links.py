"""Symbolic links of a sealed keep: as guests made them, and none that the host makes."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import ExitReason
from tests.unit.app_loader.at_rest.sealed_keep import (
    DATA,
    SEALED,
    plaintext,
    put,
    write,
)
from tests.unit.app_loader.execution_harness import (
    SPINS,
    Execution,
    ending,
    execute,
    guest,
    refused,
    wat,
)


def test_a_link_to_the_keeps_own_files_is_sealed_as_a_link(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        view = keep.files.mounted(DATA)
        (view / "link").symlink_to(tmp_path / "sealing-share")
        (view / "folder").symlink_to(tmp_path)
        await keep.runs.stop(run.id)
        assert (tmp_path / "files/data/link").is_symlink()
        assert (tmp_path / "files/data/folder").is_symlink()
        with refused(ErrorCode.FILE_PATH_INVALID):
            keep.files.open(DATA, "link")

    execute(tmp_path, scenario, SEALED)


def test_a_link_leads_runs_where_it_did_and_the_disk_does_not_say_where(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await put(keep, "folder/kept", b"kept")
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        (keep.files.mounted(DATA) / "link").symlink_to("folder/kept")
        await keep.runs.stop(run.id)
        assert b"kept" not in os.readlink(os.fsencode(tmp_path / "files/data/link"))
        await keep.load(guest("read_file"))
        for _ in range(2):
            read = await keep.run(RunRequest(args=("/data/link",)))
            assert await keep.stdout(read) == b"kept"
            await keep.load(guest("write_file"))
            await write(keep, "/data/another", "so that the area is sealed anew")
            await keep.load(guest("read_file"))

    execute(tmp_path, scenario, SEALED)


def test_a_link_that_the_keep_did_not_make_leads_no_run_to_another_file(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        await put(keep, "mine", b"folder/theirs")
        await put(keep, "folder/theirs", b"theirs")
        mine = tmp_path / "files/data/mine"
        content = mine.read_bytes()
        # What the host chooses, and what it has of the keep itself: a file in this very place.
        for target in (b"folder/theirs", base64.urlsafe_b64encode(content)):
            mine.unlink()
            os.symlink(target, os.fsencode(mine))
            with refused(ErrorCode.SEALED_INVALID):
                await keep.run(RunRequest(args=("/data/mine",)))
            assert plaintext(tmp_path) == []
        mine.unlink()
        mine.write_bytes(content)
        run = await keep.run(RunRequest(args=("/data/mine",)))
        assert await keep.stdout(run) == b"folder/theirs"

    execute(tmp_path, scenario, SEALED)


def test_a_link_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        (keep.files.mounted(DATA) / "one").symlink_to("first")
        (keep.files.mounted(DATA) / "two").symlink_to("second")
        await keep.runs.stop(run.id)
        one, two = tmp_path / "files/data/one", tmp_path / "files/data/two"
        one.unlink()
        two.rename(one)
        with refused(ErrorCode.SEALED_INVALID):
            await keep.run()

    execute(tmp_path, scenario, SEALED)


@pytest.mark.parametrize(("size", "reason"), [(2989, ExitReason.STOPPED), (2990, ExitReason.OUTPUT_LIMIT)])
def test_a_link_that_is_too_long_to_be_sealed_is_told_with_the_run(
    tmp_path: Path, size: int, reason: ExitReason
) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        await keep.spinning(run)
        (keep.files.mounted(DATA) / "link").symlink_to(("x/" * size)[:size])
        exit_ = ending(await keep.runs.stop(run.id))
        assert exit_.reason is reason
        assert reason is ExitReason.STOPPED or "File name too long" in str(exit_.message)

    execute(tmp_path, scenario, SEALED)
