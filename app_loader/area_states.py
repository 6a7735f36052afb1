"""The states of an area on disk: the next one takes the last one's place whole, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from app_loader.paths import FOLDER_MODE
from keep_protocol.removal import remove_tree
from keep_protocol.states import FileArea

HIDDEN: Final = "."
"""What is under way begins with it, beside the areas and out of guests' sight."""
STAGING: Final = f"{HIDDEN}sealing-"
"""The next and the last state of an area begin with it."""


def next_state(root: Path, area: FileArea) -> Path:
    """Where it is made."""
    return root / f"{STAGING}next-{area.value}"


def replace_state(root: Path, area: FileArea) -> Path:
    """Let the next state, which is on disk, take the area's place; where the last one is. Raises `OSError`.

    Killed in between, the keep's next life ends it: see `prepare_areas`.
    """
    last = root / f"{STAGING}last-{area.value}"
    os.rename(root / area.value, last)
    os.rename(next_state(root, area), root / area.value)
    return last


def prepare_areas(root: Path) -> None:
    """At start: make the areas, and end or clear away what was interrupted: sealing, an upload, a removal."""
    root.mkdir(mode=FOLDER_MODE, exist_ok=True)
    for area in FileArea:
        folder = root / area.value
        if not folder.exists():
            # The next state was whole when the last one was put away.
            with contextlib.suppress(FileNotFoundError):
                next_state(root, area).rename(folder)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    with os.scandir(root) as entries:
        leftovers = [Path(entry.path) for entry in entries if entry.name.startswith(HIDDEN)]
    for leftover in leftovers:
        if leftover.is_dir():
            for _ in remove_tree(leftover):
                pass
        else:
            leftover.unlink()
