"""What one process uses for each of the works that it does one after the other."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from app_loader.process_usage import live_usage
from app_loader.runner_messages import ProcessUsage

_FORGET_PEAK: Final = b"5"
"""proc_pid_clear_refs(5)."""


class UsageMeter:
    """Of one process; close it when that is gone."""

    def __init__(self) -> None:
        self._total = 0.0
        """Seconds of processor time at the end of its last work."""
        self._peak = -1

    def begin(self, pid: int | None) -> None:
        """Another work begins: the kernel counts the peak of memory anew, from what the process has now.

        Of one whose pid is not known yet, it is the first work, so there is nothing to forget.
        """
        if self._peak < 0 and pid is not None:
            # It is gone already, which is found out when it is asked; or the kernel was built without this file, and
            # the peak is that of the process's life.
            with contextlib.suppress(OSError):
                self._peak = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        if self._peak >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._peak, _FORGET_PEAK, 0)

    def end(self, total: float) -> None:
        """The work is done, and these are the seconds that the process has had in its life."""
        self._total = total

    def so_far(self, pid: int | None) -> ProcessUsage | None:
        """Of the work that the process is at; None if it is gone."""
        usage = None if pid is None else live_usage(pid)
        return None if usage is None else self.of(usage)

    def of(self, life: ProcessUsage) -> ProcessUsage:
        """Of the last work of a process, by what it used in all its life."""
        return ProcessUsage(max(0.0, life.cpu - self._total), life.memory)

    def close(self) -> None:
        """The process is gone."""
        if self._peak >= 0:
            os.close(self._peak)
            self._peak = -1
