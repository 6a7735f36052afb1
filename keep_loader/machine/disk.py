"""The disk of a machine: one file in the keep's state folder, with a file system in which the guest keeps its state."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Final

from keep_loader.errors import MachineError

DISK_FILE: Final = "disk.ext4"
_MAKE_DEADLINE: Final = 60.0


def open_disk(mke2fs: str, state: Path, size: int) -> int:
    """A descriptor of the disk in `state`, locked for as long as it is open; made with `size` bytes if it is missing.

    One that is there keeps its size. Raises `MachineError`.
    """
    path = state / DISK_FILE
    try:
        if not path.exists():
            _make(mke2fs, path, size)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise MachineError(f"disk-unusable: {path.name}: {error.strerror}") from None
    try:
        # The state folder has a lock of its own. This one is for a file that has got into two folders.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MachineError(
            f"disk-in-use: another machine has {path}: end it, or give each keep a disk of its own"
        ) from None
    return descriptor


def _make(mke2fs: str, path: Path, size: int) -> None:
    """Raises `OSError` or `MachineError`. Whoever is killed meanwhile leaves nothing that looks like a disk."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with new.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        # Not filled: it takes of the host's disk what the guest has written.
        file.truncate(size)
    # The journal makes a guest that was killed find a sound file system. Nothing is reserved for root, who writes none.
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=16", str(new)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_DEADLINE, check=False)
    except OSError as error:
        raise MachineError(f"disk-unusable: none can be made: {mke2fs}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"disk-unusable: none can be made: mke2fs took more than {_MAKE_DEADLINE:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise MachineError(f"disk-unusable: none can be made: {said[-1][:300] if said else 'mke2fs failed'}")
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(path)
