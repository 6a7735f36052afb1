"""The cpio archive of an image: the same bytes for the same entries. That Linux reads it, the system tests show."""

from __future__ import annotations

import random

from keep_image.newc import character_device, file, folder, link, write_archive

ENTRIES = [
    file("init", b"#!/usr/bin/python3.11\n", 0o755),
    file("usr/lib/a", b"abcd"),
    file("usr/lib/b", b"12345"),
    link("lib", "usr/lib"),
    folder("proc"),
    character_device("dev/console", 5, 1),
]


def test_the_order_of_entries_does_not_matter() -> None:
    shuffled = ENTRIES.copy()
    random.Random(1).shuffle(shuffled)
    assert write_archive(shuffled) == write_archive(ENTRIES)


def test_folders_that_are_needed_are_there_before_what_lies_in_them() -> None:
    archive = write_archive([file("usr/lib/a", b"")])
    assert archive.index(b"usr\0") < archive.index(b"usr/lib\0") < archive.index(b"usr/lib/a\0")


def test_an_archive_is_padded_and_ends_with_its_trailer() -> None:
    archive = write_archive(ENTRIES)
    assert len(archive) % 512 == 0
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_owners_and_times_are_zero() -> None:
    archive = write_archive([file("a", b"")])
    header = archive[:110]
    uid, gid, mtime = (int(header[6 + 8 * number : 14 + 8 * number], 16) for number in (2, 3, 5))
    assert (uid, gid, mtime) == (0, 0, 0)
