"""Secrets as files that are in memory only: in a tmpfs of the unit's own, or below /dev/shm where there is no unit."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.memory_folder import SHARED_MEMORY, UNIT_MEMORY, memory_folder_of
from keep_protocol.removal import remove_tree

_MOUNTS: Final = Path("/proc/self/mountinfo")
_PARENTS: Final = (UNIT_MEMORY, SHARED_MEMORY)


@functools.cache
def memory_parent(parents: tuple[Path, ...] = _PARENTS) -> Path | None:
    """The first of `parents` that is a mounted tmpfs; None where there is none. Looked up once: every run asks.

    proc_pid_mountinfo(5): the fifth field is the mount point; the type follows the hyphen.
    """
    types = {}
    for line in _MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        types[before.split(b" ")[4]] = after.split(b" ")[0]
    return next((parent for parent in parents if types.get(os.fsencode(parent)) == b"tmpfs"), None)


class SecretFiles:
    """Folders with secrets, one or more for each run that has any. Without such runs there is nothing."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def clear(self) -> None:
        """Remove what an earlier life of the keep has left."""
        if (parent := memory_parent()) is not None:
            _remove(memory_folder_of(self._state, parent))

    def require(self) -> Path:
        """Where the keep's folder is to be. Raises `RefusalError` (`secret-unusable`) where no memory holds files."""
        parent = memory_parent()
        if parent is None:
            raise RefusalError(
                ErrorCode.SECRET_UNUSABLE,
                f"this keep has no tmpfs at {UNIT_MEMORY} or {SHARED_MEMORY}, and secrets are written nowhere else",
                remedy="give the secret as an environment variable",
            )
        return memory_folder_of(self._state, parent)

    def make(self, run: str, folders: Mapping[str, Mapping[str, bytearray]]) -> tuple[int, ...]:
        """A folder for each of `folders`, with these files; descriptors (O_PATH), which the caller closes.

        Raises `RefusalError`.
        """
        root = self.require()
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove, run)
            descriptors = []
            try:
                own_folder(root)
                (root / run).mkdir(mode=0o700)
                for index, files in enumerate(folders.values()):
                    descriptors.append(_make(root / run / str(index), files))
                    undo.callback(os.close, descriptors[-1])
            except OSError as error:
                detail = f"the secrets' files cannot be made in memory: {error.strerror}"
                raise RefusalError(ErrorCode.SECRET_UNUSABLE, detail) from None
            undo.pop_all()
        return tuple(descriptors)

    def remove(self, run: str) -> None:
        """Remove a run's folders, and the keep's with the last of them."""
        if (parent := memory_parent()) is not None:
            root = memory_folder_of(self._state, parent)
            _remove(root / run)
            with contextlib.suppress(OSError):
                root.rmdir()


def own_folder(root: Path) -> None:
    """Make the keep's folder in memory. The parent may be everybody's, and then somebody may have been faster.

    Raises `OSError`.
    """
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise FileExistsError(errno.EEXIST, f"{root.name} is taken by somebody else")


def _remove(folder: Path) -> None:
    # What cannot be removed is found again by the next start, or goes with the unit's memory.
    with contextlib.suppress(OSError):
        for _ in remove_tree(folder):
            pass


def _make(folder: Path, files: Mapping[str, bytearray]) -> int:
    folder.mkdir(mode=0o700)
    for name, value in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(value)
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
