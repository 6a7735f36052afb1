"""Files of a keep: stored whole or not at all, within the limit, and never through a link."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from app_loader.area_states import prepare_areas
from app_loader.files import Files
from app_loader.paths import MAX_COMPONENTS, open_beneath
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import FileStored
from keep_protocol.states import FileArea

INPUT = FileArea.INPUT
LIMIT = 1000


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path / "files", LIMIT)
    prepare_areas(files.root)
    return files


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def put(files: Files, path: str, *parts: bytes, area: FileArea = INPUT, digest: bytes | None = None) -> FileStored:
    stored, _ = asyncio.run(files.put(area, path, chunks(*parts), size=None, digest=digest))
    return stored


def get(files: Files, path: str, area: FileArea = INPUT) -> bytes:
    async def collect() -> bytes:
        async with aclosing(files.open(area, path)) as content:
            body = b"".join([chunk async for chunk in content])
        assert len(body) == content.size
        return body

    return asyncio.run(collect())


def delete(files: Files, path: str, area: FileArea = INPUT) -> None:
    asyncio.run(files.delete(area, path))


def names(files: Files, path: str = "", area: FileArea = INPUT) -> list[str]:
    return [entry.name for entry in asyncio.run(files.list(area, path)).entries]


def hidden(files: Files) -> list[str]:
    return [name for name in os.listdir(files.root) if name not in set(FileArea)]


class TestStoring:
    def test_a_file_can_be_fetched_as_it_was_put(self, files: Files) -> None:
        stored = put(files, "a/b/c.txt", b"hello ", b"world")
        assert stored == FileStored(
            area=INPUT, path="a/b/c.txt", size=11, digest=hashlib.sha256(b"hello world").hexdigest()
        )
        assert get(files, "a/b/c.txt") == b"hello world"

    def test_a_file_that_exists_is_replaced_and_said_to_be(self, files: Files) -> None:
        async def twice() -> list[bool]:
            return [
                (await files.put(INPUT, "f", chunks(content), size=3, digest=None))[1] for content in (b"old", b"new")
            ]

        assert asyncio.run(twice()) == [True, False]
        assert get(files, "f") == b"new"

    def test_an_empty_file_is_a_file(self, files: Files) -> None:
        assert put(files, "empty").size == 0
        assert get(files, "empty") == b""

    def test_the_right_digest_is_accepted(self, files: Files) -> None:
        put(files, "f", b"abc", digest=hashlib.sha256(b"abc").digest())
        assert get(files, "f") == b"abc"

    def test_a_wrong_digest_stores_nothing_and_keeps_the_old_file(self, files: Files) -> None:
        put(files, "f", b"old")
        with pytest.raises(RefusalError) as refusal:
            put(files, "f", b"new", digest=hashlib.sha256(b"other").digest())
        assert refusal.value.code is ErrorCode.DIGEST_MISMATCH
        assert get(files, "f") == b"old"
        assert hidden(files) == []

    def test_an_upload_that_breaks_off_stores_nothing(self, files: Files) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(files.put(INPUT, "a/b/f", broken(), size=None, digest=None))
        assert names(files) == hidden(files) == []

    def test_what_an_earlier_process_left_is_cleared_away(self, files: Files) -> None:
        put(files, "kept", b"x")
        (files.root / ".upload-1").write_bytes(b"half")
        (files.root / ".removed-1" / "0" / "deep").mkdir(parents=True)
        prepare_areas(files.root)
        assert hidden(files) == []
        assert names(files) == ["kept"]

    def test_folders_are_made_and_listed(self, files: Files) -> None:
        asyncio.run(files.make_folder(INPUT, "a/b/"))
        assert names(files, "a") == ["b"]
        assert files.is_folder(INPUT, "a/b")

    def test_making_a_folder_says_whether_it_is_new(self, files: Files) -> None:
        assert [asyncio.run(files.make_folder(INPUT, "a/b"))[1] for _ in range(2)] == [True, False]

    def test_a_guest_that_puts_a_link_where_an_upload_goes_gains_nothing(self, files: Files, tmp_path: Path) -> None:
        async def upload() -> AsyncIterator[bytes]:
            (files.stored(INPUT) / "f").symlink_to(tmp_path / "outside")
            yield b"x"

        with pytest.raises(RefusalError):
            asyncio.run(files.put(INPUT, "f", upload(), size=None, digest=None))
        assert not (tmp_path / "outside").exists()

    def test_areas_are_apart(self, files: Files) -> None:
        put(files, "f", b"1", area=FileArea.DATA)
        assert names(files) == names(files, area=FileArea.OUTPUT) == []


class TestLimit:
    def test_exactly_the_limit_fits(self, files: Files) -> None:
        put(files, "f", bytes(LIMIT))
        assert asyncio.run(files.used()) == LIMIT

    def test_the_areas_count_together(self, files: Files) -> None:
        put(files, "f", bytes(LIMIT - 1))
        with pytest.raises(RefusalError) as refusal:
            put(files, "g", b"ab", area=FileArea.DATA)
        assert refusal.value.code is ErrorCode.BODY_TOO_LARGE
        assert "1 are left" in refusal.value.detail

    def test_an_announced_size_is_refused_before_anything_is_read(self, files: Files) -> None:
        async def unread() -> AsyncIterator[bytes]:
            raise AssertionError
            yield b""

        with pytest.raises(RefusalError):
            asyncio.run(files.put(INPUT, "f", unread(), size=LIMIT + 1, digest=None))

    def test_an_upload_without_announced_size_is_cut_before_the_limit_is_exceeded(self, files: Files) -> None:
        written = []

        async def endless() -> AsyncIterator[bytes]:
            while True:
                written.append(await files.used())
                yield bytes(300)

        with pytest.raises(RefusalError):
            asyncio.run(files.put(INPUT, "f", endless(), size=None, digest=None))
        assert written == [0, 300, 600, 900]
        assert asyncio.run(files.used()) == 0

    def test_a_file_may_be_replaced_by_one_as_large(self, files: Files) -> None:
        put(files, "f", bytes(LIMIT))
        put(files, "f", bytes(LIMIT))
        assert asyncio.run(files.used()) == LIMIT

    def test_uploads_at_the_same_time_share_the_limit(self, files: Files) -> None:
        async def both() -> list[object]:
            async def slowly() -> AsyncIterator[bytes]:
                for _ in range(6):
                    await asyncio.sleep(0)
                    yield bytes(100)

            uploads = (files.put(INPUT, name, slowly(), size=None, digest=None) for name in ("f", "g"))
            return await asyncio.gather(*uploads, return_exceptions=True)

        assert sum(isinstance(result, RefusalError) for result in asyncio.run(both())) == 1
        assert asyncio.run(files.used()) == 600

    def test_what_others_remove_meanwhile_makes_room(self, files: Files) -> None:
        put(files, "old", bytes(900))

        async def upload() -> AsyncIterator[bytes]:
            yield bytes(100)
            await files.delete(INPUT, "old")
            yield bytes(900)

        asyncio.run(files.put(INPUT, "new", upload(), size=None, digest=None))
        assert asyncio.run(files.used()) == LIMIT


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["..", "a/../b", "./f", "a//b", "/etc/passwd", "nul\0", "x" * 256, "a/" + "ä" * 128, "//", "f/."]
    )
    def test_a_path_that_is_none_is_refused_everywhere(self, files: Files, path: str) -> None:
        acts = (
            lambda: put(files, path, b"x"),
            lambda: get(files, path),
            lambda: asyncio.run(files.list(INPUT, path)),
            lambda: files.is_folder(INPUT, path),
            lambda: asyncio.run(files.make_folder(INPUT, path)),
            lambda: delete(files, path),
        )
        for act in acts:
            with pytest.raises(RefusalError) as refusal:
                act()
            assert refusal.value.code is ErrorCode.FILE_PATH_INVALID

    def test_the_deepest_path_leaves_a_tree_that_can_be_counted(self, files: Files) -> None:
        deepest = "/".join("d" * MAX_COMPONENTS)
        put(files, deepest, b"x")
        assert asyncio.run(files.used()) == 1
        for path in (f"{deepest}/d", "d/" * 5000):
            with pytest.raises(RefusalError) as refusal:
                asyncio.run(files.make_folder(INPUT, path))
            assert refusal.value.code is ErrorCode.FILE_PATH_INVALID
        put(files, "another", b"x")

    def test_what_is_not_there_is_not_found(self, files: Files) -> None:
        for act in (get, delete):
            for path in ("f", "no/f"):
                with pytest.raises(RefusalError) as refusal:
                    act(files, path)
                assert refusal.value.code is ErrorCode.FILE_NOT_FOUND

    def test_a_folder_is_not_overwritten_by_a_file_nor_a_file_by_a_folder(self, files: Files) -> None:
        put(files, "folder/f", b"x")
        with pytest.raises(RefusalError) as refusal:
            put(files, "folder", b"x")
        assert refusal.value.code is ErrorCode.FILE_CONFLICT
        with pytest.raises(RefusalError) as refusal:
            put(files, "folder/f/g", b"x")
        assert refusal.value.code is ErrorCode.FILE_CONFLICT

    def test_links_that_a_guest_made_are_not_followed(self, files: Files, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        output = files.stored(FileArea.OUTPUT)
        (output / "folder").symlink_to(outside)
        (output / "file").symlink_to(outside / "secret")
        (output / "dangling").symlink_to(tmp_path / "new")
        acts = (
            lambda: get(files, "file", FileArea.OUTPUT),
            lambda: get(files, "folder/secret", FileArea.OUTPUT),
            lambda: asyncio.run(files.list(FileArea.OUTPUT, "folder")),
            lambda: files.is_folder(FileArea.OUTPUT, "folder"),
            lambda: put(files, "file", b"x", area=FileArea.OUTPUT),
            lambda: put(files, "dangling", b"x", area=FileArea.OUTPUT),
            lambda: put(files, "folder/new", b"x", area=FileArea.OUTPUT),
            lambda: delete(files, "folder/secret", FileArea.OUTPUT),
        )
        for act in acts:
            with pytest.raises(RefusalError) as refusal:
                act()
            assert refusal.value.code is ErrorCode.FILE_PATH_INVALID
        assert os.listdir(outside) == ["secret"]
        assert not (tmp_path / "new").exists()

    def test_special_files_are_not_opened(self, files: Files) -> None:
        os.mkfifo(files.stored(FileArea.OUTPUT) / "fifo")
        with pytest.raises(RefusalError) as refusal:
            get(files, "fifo", FileArea.OUTPUT)
        assert refusal.value.code is ErrorCode.FILE_PATH_INVALID

    def test_open_beneath_gives_the_folder_itself(self, files: Files) -> None:
        descriptor = open_beneath(files.stored(INPUT), "a/b", create=True)
        try:
            assert os.path.samestat(os.fstat(descriptor), os.stat(files.stored(INPUT) / "a" / "b"))
        finally:
            os.close(descriptor)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(RefusalError):
            open_beneath(files.stored(INPUT), "a/c", create=False)
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestListing:
    def test_a_folder_is_listed_sorted_with_kinds_and_sizes_and_not_its_folders(self, files: Files) -> None:
        put(files, "b", b"12")
        put(files, "a/inner", b"1")
        (files.stored(INPUT) / "c").symlink_to("b")
        os.mkfifo(files.stored(INPUT) / "d")
        listed = [(entry.name, entry.kind, entry.size) for entry in asyncio.run(files.list(INPUT, "")).entries]
        assert listed == [("a", "folder", 0), ("b", "file", 2), ("c", "link", 0), ("d", "other", 0)]

    def test_names_that_are_not_utf_8_are_shown_escaped(self, files: Files) -> None:
        (files.stored(INPUT) / os.fsdecode(b"bad\xffname")).touch()
        assert names(files) == ["bad\\xffname"]
        delete(files, os.fsdecode(b"bad\xffname"))
        assert names(files) == []

    def test_a_file_that_grows_is_sent_as_long_as_it_was(self, files: Files) -> None:
        put(files, "f", b"12345")

        async def collect() -> bytes:
            async with aclosing(files.open(INPUT, "f")) as content:
                with (files.stored(INPUT) / "f").open("ab") as file:
                    file.write(b"more")
                assert content.size == 5
                return b"".join([chunk async for chunk in content])

        assert asyncio.run(collect()) == b"12345"


class TestRemoving:
    def test_a_file_a_folder_and_a_link_are_removed(self, files: Files, tmp_path: Path) -> None:
        put(files, "file", b"x")
        put(files, "folder/with/much", b"x")
        kept = tmp_path / "kept"
        kept.touch()
        (files.stored(INPUT) / "link").symlink_to(kept)
        for path in ("file", "folder/", "link"):
            delete(files, path)
        assert names(files) == hidden(files) == []
        assert kept.exists()

    def test_an_area_is_emptied_and_stays_the_same_folder(self, files: Files) -> None:
        put(files, "a/b", b"x")
        put(files, "c", b"x")
        before = files.stored(INPUT).stat().st_ino
        delete(files, "")
        assert names(files) == hidden(files) == []
        assert files.stored(INPUT).stat().st_ino == before

    def test_links_within_a_folder_are_not_followed(self, files: Files, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        put(files, "folder/f", b"x")
        (files.stored(INPUT) / "folder" / "link").symlink_to(outside)
        delete(files, "folder")
        assert os.listdir(outside) == ["kept"]

    def test_folders_nested_beyond_any_path_are_removed(self, files: Files) -> None:
        folder = os.open(files.stored(INPUT), os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("deeper", dir_fd=folder)
            below = os.open("deeper", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)
        delete(files, "deeper")
        assert names(files) == hidden(files) == []
