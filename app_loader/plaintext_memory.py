"""The folder in memory where runs see files in plaintext, and how much of the keep's memory it may take."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from app_loader.secret_files import memory_parent, own_folder
from keep_protocol.memory_folder import memory_folder_of
from keep_protocol.removal import exhaust, remove_tree
from keep_protocol.spec import MiB

MEMORY_OF_KEEP: Final = 48 * MiB
"""What a keep itself needs, so what no plaintext may take."""
_LEAST: Final = 16 * MiB
"""What is left in the smallest keep that a spec can ask for."""

_FOLDER: Final = "files"


def room_for_plaintext(memory: int) -> int:
    """Bytes of plaintext that a keep with this limit of memory has room for."""
    return max(memory - MEMORY_OF_KEEP, _LEAST)


def plaintext_folder(state: Path) -> Path | None:
    """Where the areas of the keep with this state folder are in plaintext; None where no memory holds files."""
    parent = memory_parent()
    return None if parent is None else memory_folder_of(state, parent) / _FOLDER


def make_plaintext_folder(state: Path) -> None:
    """Make it, empty. Before the runner is confined, which is to what exists then. Raises `OSError`."""
    folder = plaintext_folder(state)
    if folder is None:
        return
    own_folder(folder.parent)
    # Only a keep that was killed has left one, and only where there is no unit whose memory goes with it.
    _remove(folder)
    folder.mkdir(mode=0o700)


def remove_plaintext_folder(state: Path) -> None:
    """At the end of a keep."""
    if (folder := plaintext_folder(state)) is not None:
        with contextlib.suppress(OSError):
            _remove(folder)
            folder.parent.rmdir()


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        exhaust(remove_tree(folder))
