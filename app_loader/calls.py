"""Calls of a workload's functions: how many at a time, how many wait, and the processes that answer them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from app_loader.errors import RunnerDiedError
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.workload import Workload
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import CallRequest, CallResult
from keep_protocol.spec import Limits

if TYPE_CHECKING:
    # Imported with the first call: most keeps only run.
    from app_loader.call_messages import CallOrder
    from app_loader.call_worker import CallWorker

MAX_WAITING = 64
IDLE_SECONDS = 30.0
"""How long a process waits for its next call."""


class Calls:
    """At most as many calls at a time as the spec allows runs."""

    def __init__(self, runner: Runner, workload: Workload, limits: Limits, oom_kills: OomKills | None = None) -> None:
        self._runner = runner
        self._workload = workload
        self._limits = limits
        self._oom_kills = oom_kills or OomKills()
        self._free = asyncio.Semaphore(limits.runs)
        self._idle: list[CallWorker] = []
        self._busy: set[CallWorker] = set()
        self._waiting = 0

    async def call(self, function: str, request: CallRequest) -> CallResult:
        """Call an exported function in a fresh instance. Raises `RefusalError`."""
        from app_loader.call_messages import CallOrder

        memory, timeout = self._limits_of(request)
        if self._free.locked() and self._waiting >= MAX_WAITING:
            raise RefusalError(
                ErrorCode.TOO_MANY_REQUESTS,
                f"{self._limits.runs} calls are going and {MAX_WAITING} are waiting",
                remedy="wait until some have ended",
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            return CallResult(await self._call(CallOrder(function, request.arguments, memory), timeout))
        finally:
            self._free.release()

    def close(self) -> None:
        """End all processes for calls; calls that are going are refused with `call-lost`."""
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._idle.clear()

    def _limits_of(self, request: CallRequest) -> tuple[int, float]:
        """Bytes and seconds. Raises `RefusalError`."""
        memory = self._limits.memory if request.memory is None else request.memory
        timeout = self._limits.run_time if request.timeout is None else request.timeout
        for name, value, limit in (
            ("memory", memory, self._limits.memory),
            ("timeout", timeout, self._limits.run_time),
        ):
            if value > limit:
                detail = f"`{name}` is {value}, the keep's spec allows {limit}"
                raise RefusalError(ErrorCode.LIMIT_EXCEEDED, detail, field=f"$.{name}")
        return memory, timeout

    async def _call(self, order: CallOrder, timeout: float) -> msgspec.Raw:
        module = await self._workload.acquire()
        try:
            worker = self._worker(module.name)
            self._busy.add(worker)
            try:
                return await worker.ask(order, timeout)
            finally:
                self._busy.discard(worker)
                self._give_back(worker)
        except RunnerDiedError as error:
            raise RefusalError(ErrorCode.CALL_LOST, str(error)) from None
        finally:
            self._workload.release(module)

    def _worker(self, module: str) -> CallWorker:
        """One that is idle, or a new one. Those of another workload are ended."""
        while self._idle:
            worker = self._idle.pop()
            if worker.usable and worker.module == module:
                if worker.retirement is not None:
                    worker.retirement.cancel()
                return worker
            worker.kill()
        from app_loader.call_worker import CallWorker

        worker = CallWorker(self._runner, module, self._oom_kills)
        worker.start()
        return worker

    def _give_back(self, worker: CallWorker) -> None:
        if worker.usable:
            worker.retirement = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire, worker)
            self._idle.append(worker)

    def _retire(self, worker: CallWorker) -> None:
        self._idle.remove(worker)
        worker.kill()
