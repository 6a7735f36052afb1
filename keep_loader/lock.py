"""One process per keep's state: whoever does not get the lock does not get ready."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from keep_loader.errors import LockError


def lock_state(state: Path) -> int:
    """Lock `<state>/lock` for the life of this process; the descriptor must stay open.

    Processes of an earlier life of this keep may still be around when its systemd was killed. Raises `LockError`.
    """
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LockError(f"{state} is used by another process; end it before this keep can start") from None
    return descriptor
