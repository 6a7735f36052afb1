"""HTTP requests that the workload answers: how many at a time, for how long, and what their failures mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app_loader.errors import RunnerDiedError
from app_loader.messages import Request, Response
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.workload import LoadedModule, Workload
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import Limits
from keep_protocol.states import WorkloadKind

if TYPE_CHECKING:
    # Imported with the first request: most keeps serve no HTTP for their workload.
    from app_loader.http_worker import HttpWorker
    from app_loader.worker_pool import WorkerPool


class HttpService:
    """At most as many requests at a time as the spec allows runs."""

    def __init__(self, runner: Runner, workload: Workload, limits: Limits, oom_kills: OomKills | None = None) -> None:
        self._runner = runner
        self._workload = workload
        self._limits = limits
        self._oom_kills = oom_kills or OomKills()
        self._workers: WorkerPool[HttpWorker] | None = None

    async def answer(self, request: Request) -> Response:
        """The workload's response, which streams. Raises `RefusalError` when there is none."""
        from app_loader.http_answer import Answering, request_head

        head = request_head(request, self._limits.memory)
        workers = self._pool()
        try:
            worker = await workers.take(_check)
        except RunnerDiedError as error:
            raise RefusalError(ErrorCode.HTTP_LOST, str(error)) from None
        answering = Answering(worker, request.body, self._limits.run_time, workers.give_back)
        return await answering.begin(head)

    def close(self) -> None:
        """End all processes; responses that are under way break off."""
        if self._workers is not None:
            self._workers.close()

    def _pool(self) -> WorkerPool[HttpWorker]:
        if self._workers is None:
            from app_loader.http_worker import HttpWorker
            from app_loader.worker_pool import WorkerPool

            def make(module: str) -> HttpWorker:
                return HttpWorker(self._runner, module, self._oom_kills)

            self._workers = WorkerPool(self._workload, self._limits.runs, make, "requests")
        return self._workers


def _check(module: LoadedModule) -> None:
    if module.kind is not WorkloadKind.HTTP_PROXY:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_HTTP,
            f"the workload is a {module.kind.value} and answers no HTTP requests",
            remedy="load a component that exports wasi:http/incoming-handler",
        )
