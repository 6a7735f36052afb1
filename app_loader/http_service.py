"""HTTP requests that the workload answers: how many at a time, for how long, and what their failures mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app_loader.errors import RunnerDiedError
from app_loader.events import Events
from app_loader.messages import Request, Response
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.workload import Workload
from app_loader.workload_record import LoadedModule
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import ServedCounts
from keep_protocol.spec import Limits
from keep_protocol.states import KeepEventKind, WorkloadKind

if TYPE_CHECKING:
    # Imported with the first request: most keeps serve no HTTP for their workload.
    from app_loader.going_request import GoingRequest
    from app_loader.http_log import HttpLog
    from app_loader.http_worker import HttpWorker
    from app_loader.network import Network
    from app_loader.served import Served
    from app_loader.trusted_roots import TrustedRoots
    from app_loader.wagi.serving import Commands
    from app_loader.worker_pool import Places, WorkerPool
    from keep_protocol.served_api import RequestRecord
    from keep_protocol.workload_configuration import WorkloadConfiguration

API_SEGMENTS = 2
"""Of a path before the workload's own: `v1` and `http`."""

_OUTGOING = "wasi:http/outgoing-handler@"


class HttpService:
    """At most as many requests at a time as the spec allows runs."""

    def __init__(
        self,
        runner: Runner,
        workload: Workload,
        limits: Limits,
        oom_kills: OomKills | None = None,
        roots: TrustedRoots | None = None,
        events: Events | None = None,
    ) -> None:
        """`events` get the requests that fail."""
        self._runner = runner
        self._workload = workload
        self._limits = limits
        self._oom_kills = oom_kills or OomKills()
        self._roots = roots
        self._events = events or Events()
        self._served: Served[GoingRequest] | None = None
        self._workers: WorkerPool[HttpWorker] | None = None
        self._commands: Commands | None = None
        self._places: Places | None = None
        self._log: HttpLog | None = None

    @property
    def counts(self) -> ServedCounts:
        """Of the requests that there are and were."""
        return ServedCounts() if self._served is None else self._served.counts(self._places)

    def records(self) -> tuple[RequestRecord, ...]:
        """The newest requests, in the order of their ends."""
        return () if self._served is None else tuple(request.record() for request in self._served.newest)

    async def answer(
        self,
        request: Request,
        network: Callable[[], Network] | None = None,
        configuration: WorkloadConfiguration | None = None,
        *,
        below: int = API_SEGMENTS,
    ) -> Response:
        """The workload's response, which streams. `network` is for the workload's own requests.

        `below` is how many segments of the path are the keep's. Raises `RefusalError` when there is none.
        """
        from app_loader.going_request import GoingRequest

        going, served = GoingRequest(request, below), self._known()
        try:
            return await self._answer(request, network, configuration, below, going)
        except BaseException as error:
            # One whose turn has come is remembered when its process is free again.
            if not going.begun:
                if isinstance(error, RefusalError):
                    going.fail(error)
                served.add(going)
            raise

    async def _answer(
        self,
        request: Request,
        network: Callable[[], Network] | None,
        configuration: WorkloadConfiguration | None,
        below: int,
        going: GoingRequest,
    ) -> Response:
        from app_loader.http_answer import Answering, request_head

        memory, run_time = self._limits.memory, self._limits.run_time
        environment: tuple[tuple[str, str], ...] = ()
        reuse = False
        if configuration is not None:
            _check_enabled(configuration)
            memory = configuration.limits.memory or memory
            run_time = configuration.limits.run_time or run_time
            if configuration.http is not None and configuration.http.wagi:
                commands = self._command_runner()
                return await commands.answer(request, configuration, memory, run_time, below, going)
            environment = tuple(configuration.env.items())
            reuse = configuration.reuse
        head = request_head(request, memory, environment, below=below, reuse=reuse)
        workers = self._pool(network)
        try:
            worker = await workers.take(_check)
        except RunnerDiedError as error:
            raise RefusalError(ErrorCode.HTTP_LOST, str(error)) from None

        def release(worker: HttpWorker) -> None:
            self._known().add(going)
            workers.give_back(worker)

        return await Answering(worker, request.body, run_time, going, release).begin(head)

    def _known(self) -> Served[GoingRequest]:
        if self._served is None:
            from app_loader.served import Served

            self._served = Served(self._events, KeepEventKind.REQUEST_FAILED)
        return self._served

    def log(self) -> HttpLog:
        """What the workload has printed while it answered."""
        if self._log is None:
            from app_loader.http_log import HttpLog

            self._log = HttpLog()
        return self._log

    def close(self) -> None:
        """End all processes; responses that are under way break off."""
        if self._workers is not None:
            self._workers.close()
        if self._commands is not None:
            self._commands.close()
        if self._log is not None:
            self._log.close()
        if self._roots is not None:
            self._roots.close()

    def _pool(self, network: Callable[[], Network] | None) -> WorkerPool[HttpWorker]:
        if self._workers is None:
            from app_loader.http_worker import HttpWorker
            from app_loader.trusted_roots import TrustedRoots
            from app_loader.worker_pool import WorkerPool

            roots, log = self._roots or TrustedRoots(), self.log()
            self._roots = roots

            def make(module: str) -> HttpWorker:
                goes_out = any(each.name.startswith(_OUTGOING) for each in self._workload.info.imports)
                way = network() if network is not None and goes_out else None
                return HttpWorker(self._runner, module, self._oom_kills, way, roots, log)

            self._workers = WorkerPool(self._workload, self._common_places(), make)
        return self._workers

    def _command_runner(self) -> Commands:
        if self._commands is None:
            from app_loader.wagi.serving import Commands

            places, log = self._common_places(), self.log()
            self._commands = Commands(self._runner, self._workload, self._oom_kills, places, log, self._known().add)
        return self._commands

    def _common_places(self) -> Places:
        if self._places is None:
            from app_loader.worker_pool import Places

            self._places = Places(self._limits.runs, "requests")
        return self._places


def _check_enabled(configuration: WorkloadConfiguration) -> None:
    if configuration.http is not None and not configuration.http.enabled:
        detail = "the workload's configuration says that it answers no HTTP requests"
        raise RefusalError(ErrorCode.WORKLOAD_NOT_HTTP, detail, remedy="set `http.enabled` in the configuration")


def _check(module: LoadedModule) -> None:
    if module.kind is not WorkloadKind.HTTP_PROXY:
        raise RefusalError(
            ErrorCode.WORKLOAD_NOT_HTTP,
            f"the workload is a {module.kind.value} and answers no HTTP requests",
            remedy="load a component that exports wasi:http/incoming-handler, or set `http.wagi` for a command",
        )
