"""Tests of `testers.keepctl.guest_paths`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from keep_client import InvalidArgumentError
from keep_protocol.keep_api import DEFAULT_MOUNTS, Mount
from keep_protocol.states import FileArea
from testers.keepctl.guest_paths import Folder, Location, Transfer, folder, folder_mounts, get, locate, put, run_mounts

INPUT, OUTPUT, DATA = DEFAULT_MOUNTS


def _mounts(*texts: str) -> tuple[Mount, ...]:
    return folder_mounts([folder(text) for text in texts])


def test_folders_are_parsed_from_the_right() -> None:
    assert folder("a:b:/c:ro") == Folder(Path("a:b"), "/c", writable=False)
    assert folder("src:fs-tests.dir") == Folder(Path("src"), "fs-tests.dir", writable=True)
    assert folder(".:/") == Folder(Path(), "/", writable=True)


def test_transfers_are_parsed_from_the_local_end() -> None:
    assert put("a:b:/input/x") == Transfer("a:b", "/input/x")
    assert get("/output/x:a:b") == Transfer("a:b", "/output/x")


@pytest.mark.parametrize("parse", [folder, put, get])
@pytest.mark.parametrize("text", ["", "a", ":", "a:", ":a"])
def test_a_pair_needs_both_sides(parse: type, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        parse(text)


def test_writable_folders_are_stored_in_output_and_others_in_input() -> None:
    assert _mounts("a:/a", "b:b:ro") == (
        Mount("/a", FileArea.OUTPUT, "dir-0", writable=True),
        Mount("b", FileArea.INPUT, "dir-1"),
    )


def test_with_folders_a_run_sees_only_the_areas_that_are_named() -> None:
    root = _mounts(".:/")
    assert run_mounts(root, []) == root
    assert run_mounts(root, ["/result.txt"]) == root
    assert run_mounts(root, ["/output/x", "/input/y"]) == (*root, INPUT, OUTPUT)


def test_a_run_may_see_only_what_is_named() -> None:
    assert run_mounts((), []) is None
    assert run_mounts((), [], only_named=True) == ()
    assert run_mounts((), ["/data/x"], only_named=True) == (DATA,)


@pytest.mark.parametrize(
    ("guest", "folders", "expected"),
    [
        ("/input/a/b", (), Location(FileArea.INPUT, "a/b")),
        ("/data", (), Location(FileArea.DATA, "")),
        ("/output//./a/", (), Location(FileArea.OUTPUT, "a")),
        ("/a/x", ("l:/a",), Location(FileArea.OUTPUT, "dir-0/x")),
        ("/a/b/x", ("l:/a", "m:/a/b:ro"), Location(FileArea.INPUT, "dir-1/x")),
        ("/ab/x", ("l:/", "m:/a"), Location(FileArea.OUTPUT, "dir-0/ab/x")),
        ("dir/x", ("l:./dir",), Location(FileArea.OUTPUT, "dir-0/x")),
        ("x", ("l:.",), Location(FileArea.OUTPUT, "dir-0/x")),
        ("/input/x", ("l:/input",), Location(FileArea.OUTPUT, "dir-0/x")),
        ("/input/x", ("l:/",), Location(FileArea.INPUT, "x")),
    ],
)
def test_a_guests_path_is_found_in_the_longest_mount(guest: str, folders: tuple[str, ...], expected: Location) -> None:
    assert locate(guest, _mounts(*folders)) == expected


@pytest.mark.parametrize("guest", ["/etc/passwd", "input/x", "/inputs", "/", "", "x"])
def test_a_path_in_no_mount_is_refused(guest: str) -> None:
    with pytest.raises(InvalidArgumentError, match="in no folder of the guest"):
        locate(guest)


def test_paths_that_go_up_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"must not contain `\.\.`"):
        locate("/input/../data")
