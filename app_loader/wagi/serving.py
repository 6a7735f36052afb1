"""Requests that a command answers: one fresh process each, as many at a time as the spec allows runs."""

from __future__ import annotations

from collections.abc import Callable

from app_loader.errors import RunnerDiedError
from app_loader.going_request import GoingRequest
from app_loader.http_log import HttpLog
from app_loader.messages import Request, Response
from app_loader.oom import OomKills
from app_loader.runner import Runner
from app_loader.runner_messages import Assignment
from app_loader.standard_input import StandardInput
from app_loader.wagi.answering import CommandAnswering
from app_loader.wagi.environment import arguments, environment
from app_loader.wagi.process import CommandProcess
from app_loader.worker_pool import Places
from app_loader.workload import Workload
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.workload_configuration import WorkloadConfiguration


class Commands:
    """What runs them."""

    def __init__(
        self,
        runner: Runner,
        workload: Workload,
        oom_kills: OomKills,
        places: Places,
        log: HttpLog,
        over: Callable[[GoingRequest], None],
    ) -> None:
        """`over` is called with each request whose process has had its turn, when that is gone."""
        self._runner = runner
        self._workload = workload
        self._oom_kills = oom_kills
        self._places = places
        self._log = log
        self._over = over
        self._going: set[CommandProcess] = set()

    async def answer(
        self,
        request: Request,
        configuration: WorkloadConfiguration,
        memory: int,
        timeout: float,
        below: int,
        going: GoingRequest,
    ) -> Response:
        """The command's response, which streams. `memory` in bytes, `timeout` in seconds. Raises `RefusalError`."""
        variables = configuration.env | environment(request, below, request.session.peer)
        assignment = Assignment(
            arguments=arguments(request, below, configuration.args),
            environment=tuple(variables.items()),
            memory=memory,
            file_size=0,
            mounts=(),
        )
        await self._places.enter()
        try:
            process, stdin = await self._start(assignment, has_body=request.body.size != 0)
        except BaseException:
            self._places.leave()
            raise

        def release() -> None:
            self._going.discard(process)
            self._over(going)
            self._places.leave()

        bodiless = request.method == "HEAD"
        answering = CommandAnswering(process, stdin, request.body, timeout, going, release, bodiless=bodiless)
        return await answering.begin()

    def close(self) -> None:
        """End all processes; responses that are under way break off."""
        for process in self._going:
            process.kill()

    async def _start(self, assignment: Assignment, *, has_body: bool) -> tuple[CommandProcess, StandardInput]:
        module = await self._workload.acquire()
        try:
            if not module.kind.is_command:
                raise RefusalError(
                    ErrorCode.WORKLOAD_NOT_HTTP,
                    f"the workload is a {module.kind.value}, and its configuration says that it is run as a command",
                    remedy="take `http.wagi` out of the configuration",
                )
            process = CommandProcess(self._runner, self._oom_kills)
            stdin = StandardInput("stream" if has_body else "none")
            try:
                process.start(module.name, assignment, stdin.take_reader(), self._log.writer())
            except RunnerDiedError as error:
                stdin.close()
                raise RefusalError(ErrorCode.HTTP_LOST, str(error)) from None
        finally:
            self._workload.release(module)
        self._going.add(process)
        return process, stdin
