"""Processes that serve a workload: how many at a time, how many requests wait for one, and which are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from app_loader.worker_process import WorkerProcess
from app_loader.workload import Workload
from app_loader.workload_record import LoadedModule
from keep_protocol.errors import ErrorCode, RefusalError

MAX_WAITING = 32
"""Fewer than the connections of a keep, so that whoever is one too many is told so, and its owner can still ask."""
IDLE_SECONDS = 30.0
"""How long a process waits for its next request."""

W = TypeVar("W", bound=WorkerProcess)


class Places:
    """So many at a time, and `MAX_WAITING` that wait for one of them to leave."""

    def __init__(self, size: int, what: str) -> None:
        """`what` is for messages, in the plural."""
        self._size = size
        self._what = what
        self._free = asyncio.Semaphore(size)
        self.taken = 0
        self.waiting = 0

    async def enter(self) -> None:
        """Returns when there is a place. Raises `RefusalError` (`too-many-requests`)."""
        if self._free.locked() and self.waiting >= MAX_WAITING:
            raise RefusalError(
                ErrorCode.TOO_MANY_REQUESTS,
                f"{self._size} {self._what} are going and {MAX_WAITING} are waiting",
                remedy="wait until some have ended",
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.taken += 1

    def leave(self) -> None:
        """Whoever has entered does so once."""
        self.taken -= 1
        self._free.release()


class WorkerPool(Generic[W]):
    """At most as many workers at a time as there are `places`; `make` gives one for a module, not started yet."""

    def __init__(self, workload: Workload, places: Places, make: Callable[[str], W]) -> None:
        self._workload = workload
        self._places = places
        self._make = make
        self._idle: list[W] = []
        self._busy: set[W] = set()

    async def take(self, check: Callable[[LoadedModule], None] = lambda _: None) -> W:
        """A worker for the workload, until it is given back. `check` may refuse the workload.

        Raises `RefusalError` (`too-many-requests` and the workload's own) and `RunnerDiedError`.
        """
        await self._places.enter()
        try:
            module = await self._workload.acquire()
            try:
                check(module)
                worker = await self._worker(module.name)
            finally:
                self._workload.release(module)
        except BaseException:
            self._places.leave()
            raise
        self._busy.add(worker)
        return worker

    def give_back(self, worker: W) -> None:
        """It has done its work, or was killed."""
        self._busy.discard(worker)
        self._places.leave()
        if worker.usable:
            worker.retirement = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire, worker)
            self._idle.append(worker)

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._idle.clear()

    async def _worker(self, module: str) -> W:
        """One that is idle, or a new one. Those of another workload are ended."""
        while self._idle:
            worker = self._idle.pop()
            if worker.usable and worker.module == module:
                if worker.retirement is not None:
                    worker.retirement.cancel()
                return worker
            worker.kill()
        worker = self._make(module)
        await worker.start()
        return worker

    def _retire(self, worker: W) -> None:
        self._idle.remove(worker)
        worker.kill()
