"""Calls of a workload's functions: how many at a time, how many wait, and the processes that answer them."""

from __future__ import annotations

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
    from app_loader.worker_pool import WorkerPool


class Calls:
    """At most as many calls at a time as the spec allows runs."""

    def __init__(self, runner: Runner, workload: Workload, limits: Limits, oom_kills: OomKills | None = None) -> None:
        self._runner = runner
        self._workload = workload
        self._limits = limits
        self._oom_kills = oom_kills or OomKills()
        self._workers: WorkerPool[CallWorker] | None = None

    async def call(self, function: str, request: CallRequest, *, reuse: bool = False) -> CallResult:
        """Call an exported function in a fresh instance, or with `reuse` in any. Raises `RefusalError`."""
        from app_loader.call_messages import CallOrder

        memory, timeout = self._limits_of(request)
        return CallResult(await self._call(CallOrder(function, request.arguments, memory, reuse), timeout))

    def close(self) -> None:
        """End all processes for calls; calls that are going are refused with `call-lost`."""
        if self._workers is not None:
            self._workers.close()

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
        workers = self._pool()
        try:
            worker = await workers.take()
        except RunnerDiedError as error:
            raise RefusalError(ErrorCode.CALL_LOST, str(error)) from None
        try:
            return await worker.ask(order, timeout)
        finally:
            workers.give_back(worker)

    def _pool(self) -> WorkerPool[CallWorker]:
        if self._workers is None:
            from app_loader.call_worker import CallWorker
            from app_loader.worker_pool import Places, WorkerPool

            def make(module: str) -> CallWorker:
                return CallWorker(self._runner, module, self._oom_kills)

            self._workers = WorkerPool(self._workload, Places(self._limits.runs, "calls"), make)
        return self._workers
