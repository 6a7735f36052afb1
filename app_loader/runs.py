"""The runs of a keep: queued, going, over; their limits, their outputs, and what a restart makes of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from app_loader.clock import now
from app_loader.configuration_store import ConfigurationStore
from app_loader.events import Events
from app_loader.execution import Execution
from app_loader.files import Files
from app_loader.files_guard import FilesGuard
from app_loader.going_run import GoingRun
from app_loader.oom import OomKills
from app_loader.run_admission import check_queue, check_runnable
from app_loader.run_assignment import assignment_of
from app_loader.run_folders import RunFolders
from app_loader.run_records import RunRecords, running, told_at_end
from app_loader.runner import Runner, close_all
from app_loader.secret_delivery import SecretDelivery
from app_loader.secret_store import SecretStore
from app_loader.standard_input import StandardInput
from app_loader.workload import Workload
from app_loader.workload_record import LoadedModule
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Run, RunExit, RunRequest
from keep_protocol.spec import KeepSpec
from keep_protocol.states import ExitReason, KeepEventKind, RunState

if TYPE_CHECKING:
    # Imported with the first run that needs them.
    from app_loader.at_rest.views import Views
    from app_loader.run_plan import RunPlan
    from app_loader.run_sockets import SocketOpener
    from app_loader.sealing.sealer import Sealer

_log = logging.getLogger(__name__)

MAX_REMEMBERED = 256
"""Of those that are over; older ones are forgotten."""
_CLOSE_SECONDS = 3.0
Stream = Literal["stdout", "stderr"]


class Runs:
    """Starts runs as the spec's limits allow and remembers how they ended."""

    def __init__(
        self,
        state: Path,
        runner: Runner,
        workload: Workload,
        spec: KeepSpec,
        oom_kills: OomKills | None = None,
        secrets: SecretStore | None = None,
        configuration: ConfigurationStore | None = None,
        *,
        files: Files | None = None,
        sealer: Callable[[], Awaitable[Sealer]] | None = None,
        sockets: Callable[[], SocketOpener],
        events: Events | None = None,
    ) -> None:
        """`events` get the ends of runs."""
        files = files or Files(state / "files", spec.limits.files, memory=spec.limits.memory)
        self._storage = files.storage
        self._folders = RunFolders(files, state, sealer)
        self._tasks: set[asyncio.Task[None]] = set()
        self._records = RunRecords(state / "runs", self._storage)
        self._runner = runner
        self._workload = workload
        self._limits = spec.limits
        self._configuration = configuration or ConfigurationStore(state, spec)
        self._sockets = sockets
        self._restart_runs = spec.restart_runs
        self._oom_kills = oom_kills or OomKills()
        self._guard = FilesGuard(files)
        self._secrets = SecretDelivery(secrets or SecretStore(), state)
        self._ended: dict[str, Run] = {}
        """In the order in which they ended."""
        self._going: dict[str, GoingRun] = {}
        self._queue: deque[GoingRun] = deque()
        self._interrupted: list[Run] = []
        """To be started again."""
        self._events = events or Events()
        self._closing = False

    @property
    def active(self) -> int:
        """Runs that have a process."""
        return len(self._going) - len(self._queue)

    @property
    def queued(self) -> int:
        """Runs that wait for others to end."""
        return len(self._queue)

    def restore(self) -> None:
        """Read the records of an earlier life. Runs that it interrupted are `lost`, or wait for `resume`."""
        self._secrets.clear()
        for run in self._records.load():
            if run.state == RunState.EXITED:
                self._ended[run.id] = run
            elif self._restart_runs:
                self._interrupted.append(run)
            else:
                self._lose(run, "the keep ended while the run was going")
        self._forget_oldest()

    async def resume(self) -> None:
        """Start the runs again that the end of an earlier life interrupted, if the spec wants that."""
        interrupted, self._interrupted = self._interrupted, []
        for run in interrupted:
            plan = self._records.plan(run.id)
            if plan is None or plan.stdin == "stream":
                self._lose(run, "the keep ended while the run was going, and its input cannot be repeated")
                continue
            try:
                module = await self._workload.acquire()
            except RefusalError as error:
                self._lose(run, f"the keep ended while the run was going: {error.detail}")
                continue
            if module.digest != run.workload:
                self._workload.release(module)
                self._lose(run, "the keep ended while the run was going, and its workload is gone")
                continue
            self._records.drop_outputs(run.id)
            again = msgspec.structs.replace(run, state=RunState.QUEUED, started_at=None, stdout=0, stderr=0)
            self._going[run.id] = going = self._prepare(again, plan, module)
            self._queue.append(going)
        self._begin_next()

    async def start(self, request: RunRequest) -> Run:
        """Start a run, or queue it. Raises `RefusalError`."""
        from app_loader.run_plan import plan_run

        if self._closing:
            raise RefusalError(ErrorCode.RUN_STATE_CONFLICT, "the keep is stopping")
        plan = plan_run(request, self._configuration.current, self._limits)
        check_queue(self.active, self.queued)
        await self._guard.refresh()
        await self._storage.unlock()
        module = await self._workload.acquire()
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(self._workload.release, module)
            check_runnable(module.kind, module.features, plan)
            self._secrets.check(plan)
            run_id = self._records.new_id()
            if views := self._folders.views(plan.mounts):
                await views.open(run_id, plan.mounts)
                undo.push_async_callback(views.close, run_id, keep=False)
            # Opened even if the run has to wait: so it is refused now for what it cannot have.
            folders = self._folders.open(plan.mounts)
            undo.callback(close_all, folders)
            check_queue(self.active, self.queued)
            going = self._prepare(Run(run_id, RunState.QUEUED, now(), module.digest), plan, module)
            undo.callback(going.execution.stdin.close)
            if plan.shimmed and self._has_room:
                # So whoever starts it hears what cannot be opened.
                going.sockets = await self._sockets().open(plan.files or ())
                undo.callback(going.sockets.close)
            if at_once := self._has_room and (going.sockets is not None or not plan.shimmed):
                going.run = running(going.run, now())
            try:
                self._records.create(going.run, plan if self._restart_runs else None)
            except OSError as error:
                raise RefusalError(ErrorCode.DISK_FULL, f"the run cannot be recorded: {error.strerror}") from None
            undo.pop_all()
        self._going[going.run.id] = going
        if at_once:
            self._begin(going, folders)
        else:
            close_all(folders)
            going.close_sockets()
            self._queue.append(going)
            if views:
                # Plaintext of runs that wait would fill the memory of those that go.
                await views.close(run_id, keep=False)
            self._begin_next()
        return self.get(going.run.id)

    @property
    def _has_room(self) -> bool:
        """Whether a run could begin now."""
        return not self._queue and self.active < self._limits.runs and not self._closing

    def get(self, run_id: str) -> Run:
        """Raises `RefusalError` (`run-not-found`)."""
        if going := self._going.get(run_id):
            return going.current
        for run in (self._ended.get(run_id), *(run for run in self._interrupted if run.id == run_id)):
            if run is not None:
                return run
        raise RefusalError(ErrorCode.RUN_NOT_FOUND, f"there is no run {run_id[:64]!r}")

    def list(self) -> tuple[Run, ...]:
        """All runs that are remembered, oldest first."""
        known = (*self._ended, *self._going, *(run.id for run in self._interrupted))
        return tuple(self.get(run_id) for run_id in sorted(known))

    async def wait(self, run_id: str, seconds: float) -> Run:
        """The run when it is over, or as it is after so many seconds. Raises `RefusalError`."""
        if going := self._going.get(run_id):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await going.over.wait()
            if run_id not in self._going and run_id not in self._ended:
                return going.run
        return self.get(run_id)

    def output(self, run_id: str, stream: Stream, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """What a run has put out, from `offset` on; with `follow` until it is over. Raises `RefusalError`."""
        run = self.get(run_id)
        size = run.stdout if stream == "stdout" else run.stderr
        if not 0 <= offset <= size:
            detail = f"{stream} has {size} bytes, so there is nothing at {offset}"
            raise RefusalError(ErrorCode.OFFSET_INVALID, detail, field="offset")
        if follow and (going := self._going.get(run_id)):
            return going.execution.outputs[stream].follow(offset)
        return self._storage.read_spool(self._records.folder(run_id) / stream, offset, size)

    async def feed(self, run_id: str, chunks: AsyncIterator[bytes]) -> None:
        """Give a run its standard input; the end of the chunks is its end. Returns early if the run ends before.

        If the chunks break off, so does the run: half an input must not look like a whole one. Raises `RefusalError`.
        """
        going = self._going.get(run_id)
        if going is None:
            self.get(run_id)
            raise RefusalError(ErrorCode.RUN_STATE_CONFLICT, "the run is over and reads no input any more")
        going.execution.stdin.claim()
        try:
            await going.execution.stdin.feed(chunks)
        except BaseException:
            self._stop(going, "the sender of its standard input broke off")
            raise

    async def stop(self, run_id: str) -> Run:
        """Kill a run and wait until it is over; one that is over stays as it is. Raises `RefusalError`."""
        self.get(run_id)
        if going := self._going.get(run_id):
            self._stop(going, "stopped by request")
            await going.over.wait()
            return going.run
        return self.get(run_id)

    async def close(self) -> None:
        """Kill all runs and record that; no more are started."""
        self._closing = True
        going = tuple(self._going.values())
        for one in going:
            self._stop(one, "the keep was stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                for one in going:
                    await one.over.wait()
        self._guard.close()

    def _prepare(self, run: Run, plan: RunPlan, module: LoadedModule) -> GoingRun:
        def finished(ending: RunExit) -> None:
            self._finish(going, ending)

        folder, stdin = self._records.folder(run.id), StandardInput(plan.stdin)
        execution = Execution(run.id, folder, self._runner, self._oom_kills, stdin, finished, self._storage)
        going = GoingRun(run, plan, module, execution)
        return going

    def _begin_next(self) -> None:
        while self._queue and self.active < self._limits.runs and not self._closing:
            going = self._queue.popleft()
            views = self._folders.views(going.plan.mounts)
            if views or going.plan.shimmed:
                going.run = running(going.run, now())
                self._spawn(self._begin_with(views, going))
            else:
                self._begin_waiting(going)

    async def _begin_with(self, views: Views | None, going: GoingRun) -> None:
        try:
            if views:
                await views.open(going.run.id, going.plan.mounts)
            if going.plan.shimmed:
                going.sockets = await self._sockets().open(going.plan.files or ())
        except RefusalError as error:
            self._workload.release(going.module)
            going.execution.abandon(ExitReason.LOST, f"what it was to have cannot be had: {error.detail}")
            return
        if (stopped := going.execution.verdict) is not None:
            self._workload.release(going.module)
            going.execution.abandon(stopped.reason, stopped.message or "")
            return
        self._begin_waiting(going)

    def _begin_waiting(self, going: GoingRun) -> None:
        try:
            folders = self._folders.open(going.plan.mounts)
        except RefusalError as error:
            self._workload.release(going.module)
            going.execution.abandon(ExitReason.LOST, f"a folder that it was to see is gone: {error.detail}")
            return
        going.run = running(going.run, now())
        self._record(going.run)
        self._begin(going, folders)

    def _begin(self, going: GoingRun, folders: tuple[int, ...]) -> None:
        plan = going.plan
        try:
            secrets = self._secrets.deliver(going.run.id, plan)
        except RefusalError as error:
            close_all(folders)
            self._workload.release(going.module)
            going.execution.abandon(ExitReason.LOST, f"a secret that it was to get cannot be given: {error.detail}")
            return
        going.execution.begin(
            going.module.name,
            assignment_of(plan, secrets, self._guard.remaining, going.module.source),
            (*folders, *secrets.folders, *going.take_sockets()),
            output=plan.output_limit,
            timeout=plan.timeout,
            discarded=plan.discarded,
        )
        self._workload.release(going.module)
        if any(mount.writable for mount in plan.mounts):
            self._guard.watch(going.execution)

    def _stop(self, going: GoingRun, message: str) -> None:
        if going in self._queue:
            self._queue.remove(going)
            self._workload.release(going.module)
            going.execution.abandon(ExitReason.STOPPED, message)
        else:
            going.execution.kill(ExitReason.STOPPED, message)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish(self, going: GoingRun, ending: RunExit) -> None:
        going.close_sockets()
        self._guard.unwatch(going.execution)
        self._secrets.withdraw(going.run.id)
        if views := self._folders.views(going.plan.mounts):
            self._spawn(self._finish_with(views, going, ending))
        else:
            self._conclude(going, ending)

    async def _finish_with(self, views: Views, going: GoingRun, ending: RunExit) -> None:
        """Over is a run when what it wrote is sealed: until then its end can be undone by the end of the keep."""
        # Of a runner that dies no run is known to have ended.
        if problem := await views.close(going.run.id, keep=not self._runner.died.is_set()):
            ending = RunExit(ExitReason.OUTPUT_LIMIT, message=problem)
        self._conclude(going, ending)

    def _conclude(self, going: GoingRun, ending: RunExit) -> None:
        going.run = msgspec.structs.replace(going.current, state=RunState.EXITED, exit=ending, ended_at=now())
        del self._going[going.run.id]
        self._ended[going.run.id] = going.run
        # When the runner dies, so does the keep: its next life reads that the run was going and acts on it.
        if not self._runner.died.is_set():
            self._record(going.run)
        self._events.record(KeepEventKind.RUN_ENDED, **told_at_end(going.run))
        going.over.set()
        self._forget_oldest()
        self._begin_next()

    def _lose(self, run: Run, message: str) -> None:
        folder = self._records.folder(run.id)
        lost = msgspec.structs.replace(
            run,
            state=RunState.EXITED,
            exit=RunExit(ExitReason.LOST, message=message),
            ended_at=now(),
            stdout=self._storage.spooled(folder / "stdout"),
            stderr=self._storage.spooled(folder / "stderr"),
        )
        self._ended[run.id] = lost
        self._record(lost)
        self._events.record(KeepEventKind.RUN_ENDED, **told_at_end(lost))

    def _record(self, run: Run) -> None:
        try:
            self._records.write(run)
        except OSError as error:
            _log.error("run %s cannot be recorded as %s: %s", run.id, run.state, error)

    def _forget_oldest(self) -> None:
        while len(self._ended) > MAX_REMEMBERED:
            run_id = next(iter(self._ended))
            del self._ended[run_id]
            self._records.remove(run_id)
