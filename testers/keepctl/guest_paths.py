"""Where guests see folders, and which file of a keep a guest's path means."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from keep_client import InvalidArgumentError
from keep_protocol.keep_api import DEFAULT_MOUNTS, Mount
from keep_protocol.states import FileArea

SEALED_MOUNT = Mount(guest="/sealed", area=FileArea.SEALED, writable=True)
"""For runs that name a path in it: its files are plaintext for guests, and envelopes for clients."""

_AREAS = (*DEFAULT_MOUNTS, SEALED_MOUNT)


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder of a keep; the empty path is the area itself."""

    area: FileArea
    path: str

    def joined(self, name: str) -> Location:
        """What is called `name` in this folder."""
        return Location(self.area, f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return f"/{self.area}/{self.path}"


@dataclass(frozen=True, slots=True)
class Folder:
    """`--dir LOCAL:GUEST[:ro]`"""

    local: Path
    guest: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Transfer:
    """`--put LOCAL:GUEST` or `--get GUEST:LOCAL`"""

    local: str
    guest: str


def folder(text: str) -> Folder:
    """Parses `--dir`. Raises `argparse.ArgumentTypeError`."""
    pair = text.removesuffix(":ro")
    local, separator, guest = pair.rpartition(":")
    if not separator or not local or not guest:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LOCAL:GUEST or LOCAL:GUEST:ro")
    return Folder(Path(local), guest, writable=pair == text)


def put(text: str) -> Transfer:
    """Parses `--put`. Raises `argparse.ArgumentTypeError`."""
    local, separator, guest = text.rpartition(":")
    if not separator or not local or not guest:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LOCAL:GUEST, such as text.txt:/input/text.txt")
    return Transfer(local, guest)


def get(text: str) -> Transfer:
    """Parses `--get`. Raises `argparse.ArgumentTypeError`."""
    guest, separator, local = text.partition(":")
    if not separator or not local or not guest:
        raise argparse.ArgumentTypeError(f"{text!r}: expected GUEST:LOCAL, such as /output/result.txt:result.txt")
    return Transfer(local, guest)


def folder_mounts(folders: Iterable[Folder]) -> tuple[Mount, ...]:
    """Where each `--dir` is stored in the keep, and where the guest sees it."""
    return tuple(
        Mount(
            guest=entry.guest,
            area=FileArea.OUTPUT if entry.writable else FileArea.INPUT,
            path=f"dir-{number}",
            writable=entry.writable,
        )
        for number, entry in enumerate(folders)
    )


def run_mounts(
    folders: tuple[Mount, ...], named: Iterable[str], *, only_named: bool = False
) -> tuple[Mount, ...] | None:
    """The mounts of a run: `--dir` folders or the usual areas, and those that a guest's path in `named` needs.

    None for a run without anything unusual, which has the mounts that are configured. `only_named` leaves out the
    usual areas, also where there is no `--dir`.
    """
    needed = {mount_of(guest, folders) for guest in named}
    only_named = only_named or bool(folders)
    if not only_named and SEALED_MOUNT not in needed:
        return None
    usual = tuple(mount for mount in DEFAULT_MOUNTS if not only_named or mount in needed)
    return (*folders, *usual, *(mount for mount in (SEALED_MOUNT,) if mount in needed))


def locate(guest: str, folders: tuple[Mount, ...] = ()) -> Location:
    """The file of the keep that a guest finds at this path. Raises `InvalidArgumentError`."""
    mount = mount_of(guest, folders)
    below = _parts(guest)[1][len(_parts(mount.guest)[1]) :]
    return Location(mount.area, "/".join((*filter(None, (mount.path,)), *below)))


def mount_of(guest: str, folders: tuple[Mount, ...]) -> Mount:
    """The mount with the longest matching prefix, as in guests; a `--dir` wins over an area of the same name."""
    absolute, parts = _parts(guest)
    matching = [mount for mount in (*_AREAS, *folders) if _covers(mount, absolute, parts)]
    if not matching:
        places = ", ".join(mount.guest for mount in (*folders, *_AREAS))
        raise InvalidArgumentError(f"{guest} is in no folder of the guest: expected a path in {places}")
    # max() takes the first of equals, so the later ones, the `--dir` folders, are looked at first.
    return max(reversed(matching), key=lambda mount: len(_parts(mount.guest)[1]))


def _covers(mount: Mount, absolute: bool, parts: tuple[str, ...]) -> bool:
    mount_absolute, prefix = _parts(mount.guest)
    return mount_absolute == absolute and parts[: len(prefix)] == prefix


def _parts(path: str) -> tuple[bool, tuple[str, ...]]:
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise InvalidArgumentError(f"{path}: paths of guests must not contain `..` here")
    return path.startswith("/"), parts
