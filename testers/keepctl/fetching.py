"""Files and folders of a keep to local ones.

The names come from the keep, the least trusted party: whatever it answers, nothing is written outside the target.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keep_client import KeepClient, NotAFolderError, ProtocolError
from keep_protocol.keep_api import FileList
from testers.deployment import printable
from testers.keepctl.console import say
from testers.keepctl.guest_paths import Location

DEEPEST = 100
"""Folders in folders; a keep can make up more without end."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def fetch(keep: KeepClient, source: Location, target: Path) -> None:
    """Copy a file of the keep to `target` (into it, if that is a folder), or a folder's content into `target`.

    Existing files are replaced. Raises `KeepClientError` and `OSError`.
    """
    try:
        listing = keep.list_files(source.area, source.path)
    except NotAFolderError:
        if target.is_dir():
            target = target / source.path.rpartition("/")[2]
        with _opened(os.open(target.parent, _FOLDER)) as folder:
            _fetch_file(keep, source, folder, target.name)
        return
    target.mkdir(exist_ok=True)
    with _opened(os.open(target, _FOLDER)) as folder:
        _fetch_folder(keep, source, listing, folder, depth=0)


def _fetch_folder(keep: KeepClient, source: Location, listing: FileList, folder: int, *, depth: int) -> None:
    if depth > DEEPEST:
        raise ProtocolError(f"the keep has more than {DEEPEST} folders in each other")
    for entry in listing.entries:
        if entry.name in ("", ".", "..") or "/" in entry.name or "\0" in entry.name:
            raise ProtocolError(f"the keep lists a file with the name {entry.name!a}: nothing more is fetched")
        place = source.joined(entry.name)
        if entry.kind == "file":
            _fetch_file(keep, place, folder, entry.name)
        elif entry.kind == "folder":
            with suppress(FileExistsError):
                os.mkdir(entry.name, dir_fd=folder)
            # O_NOFOLLOW: a link that stands there already could lead anywhere.
            with _opened(os.open(entry.name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)) as below:
                _fetch_folder(keep, place, keep.list_files(place.area, place.path), below, depth=depth + 1)
        else:
            say(f"{printable(str(place))} is neither a file nor a folder: left out")


def _fetch_file(keep: KeepClient, source: Location, folder: int, name: str) -> None:
    # Written beside and renamed: never through a link of that name, and never half.
    temporary = f".keepctl-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(keep.read_file(source.area, source.path))
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
