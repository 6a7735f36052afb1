"""Calls of a workload's functions: how many at a time, how many wait, and the processes that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from app_loader.errors import RunnerDiedError
from app_loader.events import Events
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.workload import Workload
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import CallRequest, CallResult, ServedCounts
from keep_protocol.spec import Limits
from keep_protocol.states import KeepEventKind, ServedOutcome

if TYPE_CHECKING:
    # Imported with the first call: most keeps only run.
    from app_loader.call_worker import CallWorker
    from app_loader.going_call import GoingCall
    from app_loader.served import Served
    from app_loader.worker_pool import Places, WorkerPool
    from keep_protocol.served_api import CallRecord


class Calls:
    """At most as many calls at a time as the spec allows runs."""

    def __init__(
        self,
        runner: Runner,
        workload: Workload,
        limits: Limits,
        oom_kills: OomKills | None = None,
        events: Events | None = None,
    ) -> None:
        """`events` get the calls that fail."""
        self._runner = runner
        self._workload = workload
        self._limits = limits
        self._oom_kills = oom_kills or OomKills()
        self._events = events or Events()
        self._workers: WorkerPool[CallWorker] | None = None
        self._places: Places | None = None
        self._served: Served[GoingCall] | None = None

    @property
    def counts(self) -> ServedCounts:
        """Of the calls that there are and were."""
        return ServedCounts() if self._served is None else self._served.counts(self._places)

    def records(self) -> tuple[CallRecord, ...]:
        """The newest calls, in the order of their ends."""
        return () if self._served is None else tuple(call.record() for call in self._served.newest)

    async def call(self, function: str, request: CallRequest, *, reuse: bool = False) -> CallResult:
        """Call an exported function in a fresh instance, or with `reuse` in any. Raises `RefusalError`."""
        from app_loader.going_call import GoingCall

        going, served = GoingCall(function), self._known()
        try:
            result = await self._call(function, request, reuse, going)
            going.outcome = ServedOutcome.ANSWERED
        except RefusalError as refusal:
            going.fail(refusal)
            raise
        finally:
            served.add(going)
        return CallResult(result, going.usage)

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

    async def _call(self, function: str, request: CallRequest, reuse: bool, going: GoingCall) -> msgspec.Raw:
        from app_loader.call_messages import CallOrder

        memory, timeout = self._limits_of(request)
        order = CallOrder(function, request.arguments, memory, reuse)
        workers = self._pool()
        try:
            worker = await workers.take()
        except RunnerDiedError as error:
            raise RefusalError(ErrorCode.CALL_LOST, str(error)) from None
        going.input = len(request.arguments)
        going.begin()
        try:
            result = await worker.ask(order, timeout)
            going.output = len(result)
            return result
        finally:
            going.end(worker.used)
            workers.give_back(worker)

    def _known(self) -> Served[GoingCall]:
        if self._served is None:
            from app_loader.served import Served

            self._served = Served(self._events, KeepEventKind.CALL_FAILED)
        return self._served

    def _pool(self) -> WorkerPool[CallWorker]:
        if self._workers is None:
            from app_loader.call_worker import CallWorker
            from app_loader.worker_pool import Places, WorkerPool

            def make(module: str) -> CallWorker:
                return CallWorker(self._runner, module, self._oom_kills)

            self._places = Places(self._limits.runs, "calls")
            self._workers = WorkerPool(self._workload, self._places, make)
        return self._workers
