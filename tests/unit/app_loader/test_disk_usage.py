"""Tests of `app_loader.disk_usage`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from app_loader.disk_usage import MAX_DEPTH, UNLIMITED, Usage, measure, used_by_unlinked


def test_files_are_counted_by_their_sizes_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(24))
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "again").symlink_to("folder/a")
    assert asyncio.run(measure(tmp_path)) == Usage(size=1024, entries=5)


def test_a_sparse_file_counts_as_what_it_claims_to_be(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**12)
    assert asyncio.run(measure(tmp_path)).size == 10**12


def test_a_tree_nested_too_deeply_counts_as_unlimited(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(MAX_DEPTH):
        os.mkdir("x" * 100, dir_fd=folder)
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert asyncio.run(measure(tmp_path)).size == UNLIMITED


def test_open_files_without_a_name_are_counted(tmp_path: Path) -> None:
    before = used_by_unlinked(os.getpid())
    with (tmp_path / "gone").open("wb") as file:
        file.write(bytes(1024 * 1024))
        file.flush()
        assert used_by_unlinked(os.getpid()) == before
        (tmp_path / "gone").unlink()
        assert used_by_unlinked(os.getpid()) - before >= 1024 * 1024


def test_a_file_that_never_had_a_name_is_none_of_a_guests() -> None:
    before = used_by_unlinked(os.getpid())
    with open(os.memfd_create("module"), "wb") as file:
        file.write(bytes(1024 * 1024))
        file.flush()
        assert used_by_unlinked(os.getpid()) == before


def test_a_process_that_is_gone_uses_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert used_by_unlinked(pid) == 0
