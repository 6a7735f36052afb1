"""Removes a folder that a guest filled: any depth, any number of entries, no link followed, few descriptors."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

_MAX_PASSES: Final = 10_000
"""A guest that has a folder below open can go on filling it; what it wins is left for the next start."""


def exhaust(steps: Generator[None, None, None]) -> None:
    """Take all steps at once."""
    collections.deque(steps, maxlen=0)


def remove_tree(root: Path) -> Generator[None, None, None]:
    """Remove `root` and all below it, a step at a time: exhaust the generator, pausing wherever that suits.

    Folders are moved up to `root` before they are emptied, so paths never get long: a guest can nest
    folders deeper than PATH_MAX, than the stack and than there are descriptors.
    """
    # Not to be met again by what an earlier process left half done.
    prefix = os.urandom(8).hex()
    counter = 0
    for _ in range(_MAX_PASSES):
        folders = []
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    os.unlink(entry.path)
                yield
        if not folders:
            with contextlib.suppress(OSError):
                root.rmdir()
                return
        for name in folders:
            folder = root / name
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        counter += 1
                        os.rename(entry.path, root / f"{prefix}-{counter}")
                    else:
                        os.unlink(entry.path)
                    yield
            with contextlib.suppress(OSError):
                folder.rmdir()
            yield
