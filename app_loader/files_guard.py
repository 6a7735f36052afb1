"""Keeps all files of a keep together within the spec's limit while guests write."""

from __future__ import annotations

import asyncio

from app_loader import disk_usage
from app_loader.execution import Execution
from app_loader.file_room import MAX_ENTRIES
from app_loader.files import Files
from keep_protocol.states import ExitReason

_INTERVAL = 0.5
"""Seconds between two measurements while runs go that may write."""

_MANY = 1000
"""Files and folders that are counted in a few milliseconds."""


class FilesGuard:
    """The kernel bounds one file (RLIMIT_FSIZE), not many; so they are counted, and who exceeds is killed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._limit = files.limit
        self._used = 0
        self._in_memory = 0
        self._entries: int | None = None
        self._watched: dict[str, Execution] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def remaining(self) -> int:
        """Bytes that are left, as far as is known."""
        room = self._files.room - self._in_memory if self._files.views else self._limit
        return max(min(self._limit - self._used, room), 0)

    async def refresh(self) -> None:
        """Measure before a run, unless there are so many files that it would wait for that: then beside it."""
        if self._entries is None or self._entries < _MANY:
            await self._measure()

    def watch(self, execution: Execution) -> None:
        """A run that may write has begun."""
        self._watched[execution.run_id] = execution
        if self._task is None:
            self._task = asyncio.create_task(self._measure_regularly())

    def unwatch(self, execution: Execution) -> None:
        """A run is over."""
        self._watched.pop(execution.run_id, None)

    def close(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _measure_regularly(self) -> None:
        """Until no run is left, and once more, for what the last one wrote."""
        last = False
        while not last:
            await asyncio.sleep(_INTERVAL)
            last = not self._watched
            if excess := await self._measure():
                for execution in tuple(self._watched.values()):
                    execution.kill(ExitReason.OUTPUT_LIMIT, excess)
        self._task = None

    async def _measure(self) -> str | None:
        """What is exceeded, in words, or None."""
        usage = await self._files.usage()
        pids = (execution.pid for execution in self._watched.values())
        self._entries = usage.entries
        unlinked = sum(disk_usage.used_by_unlinked(pid) for pid in pids if pid is not None)
        self._in_memory = usage.memory + unlinked if self._files.views else 0
        self._used = usage.size + unlinked
        if self._used > self._limit:
            return f"the files of the keep exceeded {self._limit} bytes, the limit `files` of its spec"
        if self._in_memory > self._files.room:
            return f"the files of the run exceeded {self._files.room} bytes, which the keep's `limits.memory` leaves"
        if usage.entries > MAX_ENTRIES:
            return f"the keep has more than {MAX_ENTRIES} files and folders, the most that it may have"
        return None
