"""What a detached keep's parent process and the manager say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_MESSAGE = 4096
"""Bytes of one message on the control socket, either way."""


class LoaderFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`loader.json`: which process it is, so that no other process with its pid is taken for it."""

    pid: int
    start_time: int
    """Clock ticks after boot: field 22 of /proc/PID/stat, proc(5)."""
    boot_id: str


class DetachedStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keep's process as its parent sees it, in systemd's words."""

    active: str
    sub: str
    result: str
    main_pid: int
    invocation: str
    restarts: int


class DetachedCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manager wants."""

    command: Literal["stop"]


def start_time(stat: str) -> int:
    """Field 22 of the text of /proc/PID/stat; the name in field 2 may hold spaces and parentheses."""
    return int(stat.rpartition(")")[2].split()[19])
