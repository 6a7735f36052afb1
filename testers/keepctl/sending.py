"""Local files and folders to a keep."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keep_client import InvalidArgumentError, KeepClient, Source
from testers.keepctl.console import upload_bar
from testers.keepctl.guest_paths import Location


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to send: `name` is its path below the target, empty for the target itself."""

    name: str
    local: Path
    is_folder: bool


def entries_of(local: Path) -> list[Entry]:
    """What has to be sent for a file or a folder, folders before what is in them.

    Raises `InvalidArgumentError` before anything is sent: for what is neither file nor folder, for names that are no
    UTF-8, for links that lead out of the folder or round in circles.
    """
    try:
        if local.is_file():
            return [Entry("", local, is_folder=False)]
        if local.is_dir():
            return list(_walk(local, local.resolve(strict=True), "", frozenset()))
    except OSError as error:
        raise InvalidArgumentError(f"{error.filename}: {error.strerror}") from error
    raise InvalidArgumentError(f"{local} is neither a file nor a folder that can be sent")


def send(keep: KeepClient, entries: list[Entry], target: Location) -> None:
    """Send `entries` so that the first one becomes `target`."""
    for entry in entries:
        place = target.joined(entry.name) if entry.name else target
        if not entry.is_folder:
            send_file(keep, Source.from_file(entry.local), place)
        elif place.path:
            keep.make_folder(place.area, place.path)


def send_file(keep: KeepClient, source: Source, place: Location) -> None:
    """Send one file, with a progress bar for a large one."""
    with upload_bar(source.name, source.size) as progress:
        keep.put_file(place.area, place.path, source, progress=progress)


@contextmanager
def standard_input() -> Iterator[Source]:
    """Our standard input, spooled: an upload begins with its digest."""
    with tempfile.NamedTemporaryFile(prefix="keepctl-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Source.from_file(Path(spool.name))


def _walk(folder: Path, root: Path, name: str, above: frozenset[Path]) -> Iterator[Entry]:
    resolved = folder.resolve(strict=True)
    if resolved in above:
        raise InvalidArgumentError(f"{folder} is a link to a folder that contains it")
    yield Entry(name, folder, is_folder=True)
    with os.scandir(folder) as scan:
        found = sorted(scan, key=lambda entry: entry.name)
    for entry in found:
        path = Path(entry.path)
        below = f"{name}/{entry.name}" if name else entry.name
        _check(path, root)
        if entry.is_dir():
            yield from _walk(path, root, below, above | {resolved})
        else:
            yield Entry(below, path, is_folder=False)


def _check(path: Path, root: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{os.fspath(path)!a}: names must be UTF-8") from None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InvalidArgumentError(f"{path} is a link that leads nowhere: remove it, or send another folder") from None
    if not target.is_relative_to(root):
        raise InvalidArgumentError(f"{path} is a link that leads out of {root}: remove it, or send another folder")
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise InvalidArgumentError(f"{path} is neither a file nor a folder")
