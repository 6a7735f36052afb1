"""Reads the end of a keep's log: what its loader said, never what a workload wrote."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_TAIL = 1024 * 1024
"""Bytes that are looked at, however many lines are asked for."""


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines, as far as they lie in the last `MAX_TAIL` bytes; empty when there is no log."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        file.seek(max(0, status.st_size - MAX_TAIL))
        content = file.read(MAX_TAIL)
    text = content.decode(errors="replace")
    return "".join(text.splitlines(keepends=True)[-lines:])


def said_last(path: Path) -> str:
    """The last line that says something, cut and put as the end of a message; empty when there is none."""
    written = [line.strip() for line in tail(path, 20).splitlines() if line.strip()]
    return f"; its log ends: {written[-1][:400]}" if written else ""
