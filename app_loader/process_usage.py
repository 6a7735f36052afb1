"""What a process has used: of its own at its end, of a child that is gone, and of one that is at work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from app_loader.runner_messages import ProcessUsage

if TYPE_CHECKING:
    import resource

_KIBIBYTE = 1024
_USER_TIME, _SYSTEM_TIME = 11, 12
"""Fields 14 and 15 of /proc/PID/stat, counted from behind the name; proc_pid_stat(5)."""


def usage_of(usage: resource.struct_rusage) -> ProcessUsage:
    """What getrusage(2) or wait4(2) tell."""
    return ProcessUsage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _KIBIBYTE)


def own_usage(before: float = 0.0) -> ProcessUsage:
    """Of this process; its processor time without the `before` seconds that it had then."""
    # Here, so that the server, which asks only for others, does not pay for it.
    import resource

    usage = usage_of(resource.getrusage(resource.RUSAGE_SELF))
    return ProcessUsage(max(0.0, usage.cpu - before), usage.memory)


def live_usage(pid: int) -> ProcessUsage | None:
    """Of a process of this user, or None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    # The name may hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return ProcessUsage(ticks / os.sysconf("SC_CLK_TCK"), int(peak) * _KIBIBYTE)
