"""Tests of `app_loader.at_rest.sealed_spool`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from app_loader.at_rest.file_keys import HEADER, FileKeys
from app_loader.at_rest.sealed_spool import MAGIC, MAX_FRAME, FrameReader, SealedSpool
from app_loader.sealing.errors import DamagedFileError
from tests.unit.app_loader.at_rest.test_sealed_file import KEYS

NAME = b"runs/r1/stdout"


def reader(path: Path, keys: FileKeys = KEYS) -> FrameReader:
    return FrameReader(path, lambda header: keys.of(MAGIC, header, NAME))


def spool(path: Path) -> SealedSpool:
    return SealedSpool(path, lambda: KEYS.new(MAGIC, NAME), reader)


async def read(path: Path, offset: int, end: int) -> bytes:
    with contextlib.closing(reader(path)) as frames:
        return b"".join([block async for block in frames.read(offset, end)])


def test_any_part_of_a_stream_can_be_read(tmp_path: Path) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate((1, 5, MAX_FRAME, 3 * MAX_FRAME + 1, 7))]
    whole = b"".join(pieces)

    async def scenario() -> None:
        output = spool(tmp_path / "o")
        for piece in pieces:
            output.append(piece)
        output.finish()
        assert output.size == len(whole)
        for offset, end in ((0, len(whole)), (3, 4), (5, MAX_FRAME + 9), (len(whole) - 8, len(whole)), (4, 4)):
            assert await read(tmp_path / "o", offset, end) == whole[offset:end]
        with contextlib.closing(reader(tmp_path / "o")) as frames:
            assert frames.measure() == len(whole)

    asyncio.run(scenario())
    assert whole[-20:] not in (tmp_path / "o").read_bytes()


def test_a_pipe_in_the_place_of_a_stream_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "o")
    with pytest.raises(OSError, match="Illegal seek"):
        reader(tmp_path / "o")


def test_single_bytes_share_frames_unless_somebody_reads(tmp_path: Path) -> None:
    async def scenario() -> None:
        output = spool(tmp_path / "o")
        for _ in range(1000):
            output.append(b"x")
        output.finish()
        few = (tmp_path / "o").stat().st_size
        assert few < 1000 + HEADER.size + 20 * 100
        watched = spool(tmp_path / "w")
        seen = watched.follow(0)
        for number in range(5):
            waiting = asyncio.ensure_future(anext(seen))
            await asyncio.sleep(0)
            watched.append(bytes([number]))
            assert await waiting == bytes([number])
            assert (await read(tmp_path / "w", number, number + 1)) == bytes([number])
        watched.finish()
        assert [block async for block in seen] == []

    asyncio.run(scenario())


def test_what_is_held_back_is_stored_soon_even_if_no_more_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        output = spool(tmp_path / "o")
        output.append(b"first")
        output.append(b"second")
        async with asyncio.timeout(30):
            while reader_size(tmp_path / "o") < 11:  # noqa: ASYNC110 - a file grows
                await asyncio.sleep(0.001)
        output.finish()

    asyncio.run(scenario())


def reader_size(path: Path) -> int:
    with contextlib.closing(reader(path)) as frames:
        return frames.measure()


def test_a_stream_that_was_killed_ends_with_its_last_whole_frame(tmp_path: Path) -> None:
    async def scenario() -> None:
        output = spool(tmp_path / "o")
        for _ in range(3):
            output.append(bytes(MAX_FRAME))
        output.finish()
        whole = (tmp_path / "o").read_bytes()
        (tmp_path / "o").write_bytes(whole[:-1])
        assert reader_size(tmp_path / "o") == 2 * MAX_FRAME
        with pytest.raises(DamagedFileError, match="ends after"):
            await read(tmp_path / "o", 0, 3 * MAX_FRAME)

    asyncio.run(scenario())


def test_frames_that_were_changed_or_swapped_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        output = spool(tmp_path / "o")
        for _ in range(2):
            output.append(bytes(MAX_FRAME))
        output.finish()
        whole = (tmp_path / "o").read_bytes()
        header, frames = whole[: HEADER.size], whole[HEADER.size :]
        half = len(frames) // 2
        for changed in (frames[half:] + frames[:half], frames[:8] + b"!" + frames[9:], frames[:half] + frames[:half]):
            (tmp_path / "o").write_bytes(header + changed)
            with pytest.raises(DamagedFileError):
                await read(tmp_path / "o", 0, 2 * MAX_FRAME)

    asyncio.run(scenario())
