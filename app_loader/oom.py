"""How often the kernel has killed processes of this keep for want of memory; cgroups(7)."""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger(__name__)

_ROOT = Path("/sys/fs/cgroup")


class OomKills:
    """Tells a process that the kernel killed for want of memory from one that was killed otherwise."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or _find()
        self._claimed = self._count()

    @property
    def known(self) -> bool:
        """Whether the kernel lets us see the count."""
        return self._file is not None

    def claim(self) -> bool:
        """Whether there was one more such kill than were claimed. Two processes never claim the same kill."""
        if self._claimed < self._count():
            self._claimed += 1
            return True
        return False

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            for line in self._file.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be read: %s", self._file, error)
        return 0


def _find() -> Path | None:
    """`memory.events` of version 2 or `memory.oom_control` of version 1, of this process's own group."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = path.removeprefix("/")
        if controllers == "":
            candidates = (_ROOT / below / "memory.events", _ROOT / "unified" / below / "memory.events")
        elif "memory" in controllers.split(","):
            candidates = (_ROOT / "memory" / below / "memory.oom_control", _ROOT / "memory" / "memory.oom_control")
        else:
            continue
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    return None
