"""Runs the manager: wires its parts, serves HTTPS, keeps trust fresh, stops within two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from cryptography.hazmat.primitives import serialization

from keep_manager.addresses import host_names
from keep_manager.app import create_app
from keep_manager.config import Address, Home, Settings, write_private
from keep_manager.context import ManagerContext
from keep_manager.disk_reserve import DiskReserve
from keep_manager.entry import KeepEntry
from keep_manager.errors import AlreadyServedError, ManagerError
from keep_manager.events import EventLog
from keep_manager.handover import HandoverServer
from keep_manager.issued import renew_crl, revoked_serials
from keep_manager.keeps import Keeps
from keep_manager.lifecycle import Lifecycle
from keep_manager.listener import listen_on
from keep_manager.machines.machines import Machines
from keep_manager.offers import Offers
from keep_manager.pki import PkiPaths, key_of, load_certificate, renew_server
from keep_manager.probe import endpoint_certificate
from keep_manager.protocol import DeadlineLoop, ManagerProtocol
from keep_manager.reconcile import Reconciler
from keep_manager.roles import RolesTable
from keep_manager.sealing_keys import SealingKeys
from keep_manager.store import Store
from keep_manager.supervisor.interface import Supervisor
from keep_manager.tls import ReloadingContext, server_context
from keep_manager.trust import Trust
from keep_manager.watch_settings import WatchSettings
from keep_protocol.manager_api import ManagerFile
from keep_protocol.states import KeepState

if TYPE_CHECKING:
    from keep_manager.watching import KeepWatch

_logger = logging.getLogger(__name__)

TRUST_POLL = 0.5
"""Seconds between two looks at the PKI's files."""
MAINTENANCE_PERIOD = 3600.0
GRACE = 1
"""Seconds for requests that are being answered when the manager is stopped."""
ACT_GRACE = 0.3
"""Seconds for acts on keeps after that; the next start finishes or undoes what is left."""
KEEP_ALIVE = 30
"""Seconds that an idle connection stays open."""
_MOST_FOUND = 20


SupervisorFactory = Callable[[], Awaitable[Supervisor]]


def serve(home: Home, settings: Settings, listen: Address, connect: SupervisorFactory) -> None:
    """Serve a home until SIGTERM or SIGINT. Raises `ManagerError` when that cannot be done.

    `connect` gives the connected supervisor.
    """
    # Our own files say their modes. Keeps' users must pass through what a supervisor makes for us.
    os.umask(0o022)
    with home_lock(home), asyncio.Runner(loop_factory=DeadlineLoop) as runner:
        runner.run(_serve(home, settings, listen, connect))


@contextlib.contextmanager
def home_lock(home: Home) -> Iterator[None]:
    """The one right to a home. Raises `AlreadyServedError` with the holder's pid."""
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise AlreadyServedError(
                f"{home.path} is served already, by process {pid}: stop it, or use another home"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class RunningManager:
    """A manager's parts, started and stopped together; the HTTPS server is around it."""

    def __init__(self, home: Home, settings: Settings, supervisor: Supervisor) -> None:
        self.paths = PkiPaths(home.pki)
        renew_crl(self.paths)
        self.tls = ReloadingContext(lambda: server_context(self.paths))
        self.store = Store(home.database)
        try:
            events = EventLog(self.store)
            reserve = DiskReserve(home.database.with_name("disk-reserve"))
            reserve.fill()
            machines = Machines(settings.machines)
            offers = Offers(settings, SealingKeys(home.sealing_keys), lambda: self.context.trust, machines)
            lifecycle = Lifecycle(self.store, events, supervisor, settings, reserve, offers)
            keeps = Keeps(lifecycle, self.store, settings, lambda: self.context.trust, machines)
            roles = RolesTable(home.roles_file)
            self.context = ManagerContext(
                home, settings, supervisor, roles, events, lifecycle, keeps, _read_trust(self.paths), machines
            )
        except BaseException:
            self.store.close()
            raise
        self._reconciler = Reconciler(lifecycle, keeps, settings.deployment)
        self._handover = HandoverServer(
            lifecycle.shared_folder / "handover.sock", supervisor.instance_of, lifecycle.take_offer
        )
        self._watch = None if settings.watch is None else _watch_of(settings.watch, lifecycle, events)
        self._signature = self._files()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take hand-over requests, look at all units once, then follow them."""
        self._prepare_runtime()
        self.publish_crl()
        await self._handover.start()
        found = asyncio.Event()
        reconciling = asyncio.create_task(self._reconciler.run(found))
        self._tasks = [
            reconciling,
            asyncio.create_task(_forever(TRUST_POLL, self.reload_trust)),
            asyncio.create_task(_forever(MAINTENANCE_PERIOD, self.maintain)),
        ]
        await found.wait()
        if self._watch is not None:
            self._tasks.append(asyncio.create_task(self._watch.run()))

    async def close(self) -> None:
        """Let go of everything; keeps live on."""
        await self.context.keeps.close(ACT_GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reconciler.close()
        await self._handover.close()
        await self.context.supervisor.close()
        self.store.close()

    def reload_trust(self) -> None:
        """Use the PKI's files if they are others than before; when they don't fit together, the old ones stay."""
        signature = self._files()
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self.tls.reload()
            self.context.trust = _read_trust(self.paths)
            self.publish_crl()
        except (ManagerError, OSError) as error:
            _logger.error("changed certificates are not usable, the previous ones stay in force: %s", error)
        else:
            _logger.info("certificates and revocation list loaded again")

    def publish_crl(self) -> None:
        """Put the revocation list where keeps read it."""
        target = self.context.lifecycle.shared_folder / "client-crl.pem"
        write_private(target, self.paths.client_crl.read_bytes(), mode=0o644)

    def maintain(self) -> None:
        """What time alone makes necessary."""
        settings = self.context.settings
        if renew_crl(self.paths):
            _logger.info("revocation list signed again")
        if renew_server(self.paths, dict.fromkeys((*settings.hosts, *host_names()))):
            _logger.info("server certificate renewed")
        for entry in list(self.context.lifecycle.entries.values()):
            with contextlib.suppress(ManagerError):
                self.context.lifecycle.refresh_certificate(entry)
        self.store.trim_denials()

    def _prepare_runtime(self) -> None:
        """Folders that keeps' users must be able to pass through; see docs/operating.md."""
        runtime = self.context.supervisor.paths.runtime
        for folder in (runtime, runtime / "hosts", runtime / "deployments", self.context.lifecycle.shared_folder):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(0o755)

    def _files(self) -> tuple[object, ...]:
        paths = self.paths
        used = (paths.server, key_of(paths.server), paths.client_ca, paths.server_ca, paths.client_crl)
        return tuple(map(_signature, used))


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers and leaves signals to us."""

    def __init__(self, config: uvicorn.Config, answering: Callable[[], None]) -> None:
        super().__init__(config)
        self._answering = answering

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._answering()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal once more at the end, and so hide that it stopped in order."""
        yield


def http_server(manager: RunningManager, answering: Callable[[], None]) -> _Server:
    """The HTTPS server of a manager, not running yet."""
    config = uvicorn.Config(
        create_app(manager.context),
        http=ManagerProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        ssl_context_factory=lambda *_: manager.tls,
    )
    return _Server(config, answering)


async def _serve(home: Home, settings: Settings, listen: Address, connect: SupervisorFactory) -> None:
    listener = listen_on(listen)
    try:
        supervisor = await connect()
        try:
            manager = RunningManager(home, settings, supervisor)
        except BaseException:
            await supervisor.close()
            raise
        _logger.info("supervisor: %s (%s)", supervisor.kind.value, supervisor.reason)
        if missing := _not_promised(supervisor):
            _logger.warning("supervisor: %s does not promise: %s", supervisor.kind.value, ", ".join(missing))
        url = _url(listener, settings)

        def answering() -> None:
            _write_manager_file(home, manager, url)
            # Whoever started us may have read the first line and closed the pipe.
            with contextlib.suppress(BrokenPipeError):
                for line in (f"listening on {url}", *_found(list(manager.context.lifecycle.entries.values()))):
                    print(line, flush=True)

        server = http_server(manager, answering)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            manager.context.events.close()
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, manager.reload_trust)
        try:
            await manager.start()
            await server.serve([listener])
        finally:
            await manager.close()
    finally:
        listener.close()


def _not_promised(supervisor: Supervisor) -> list[str]:
    promises = supervisor.promises
    missing = [f"a limit of {limit}" for limit in ("memory", "cpu", "tasks") if limit not in promises.limits]
    if not promises.sandbox:
        missing.append("a sandbox around the keep")
    if not promises.own_uid:
        missing.append("a user of its own for each keep")
    return missing


def _found(entries: list[KeepEntry]) -> list[str]:
    """What the operator is told of keeps from before, a line each."""
    lines = [
        f"found keep {entry.id} ({entry.row.name}): {entry.state.value} at {entry.row.endpoint}"
        + (f", process {entry.pid}" if entry.pid else "")
        for entry in entries[:_MOST_FOUND]
    ]
    if len(entries) > _MOST_FOUND:
        lines.append(f"found {len(entries) - _MOST_FOUND} keeps more: keepctl ls")
    return lines


def _url(listener: socket.socket, settings: Settings) -> str:
    """An address that listens on everything is reached by a name of this host."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = next(iter(settings.hosts), socket.gethostname())
    return f"https://{Address(host, port)}"


def _write_manager_file(home: Home, manager: RunningManager, url: str) -> None:
    supervisor = manager.context.supervisor
    content = ManagerFile(
        url=url,
        ca=str(manager.paths.server_ca.resolve()),
        pid=os.getpid(),
        deployment=manager.context.settings.deployment,
        supervisor=supervisor.kind.value,
        runtime=str(supervisor.paths.runtime),
    )
    write_private(home.manager_file, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def _watch_of(settings: WatchSettings, lifecycle: Lifecycle, events: EventLog) -> KeepWatch:
    # Verifiers cost tens of milliseconds to import, and most managers watch nothing.
    from keep_manager.watching import KeepWatch

    async def stop(entry: KeepEntry) -> None:
        async with entry.lock:
            if entry.state is KeepState.READY:
                await lifecycle.halt(entry, None)

    return KeepWatch(settings, lambda: list(lifecycle.entries.values()), endpoint_certificate, stop, events)


def _read_trust(paths: PkiPaths) -> Trust:
    clients, servers = (
        load_certificate(path).public_bytes(serialization.Encoding.DER) for path in (paths.client_ca, paths.server_ca)
    )
    return Trust(clients, servers, revoked_serials(paths))


async def _forever(period: float, act: Callable[[], None]) -> None:
    while True:
        try:
            act()
        except Exception:
            _logger.exception("%s failed; it is tried again in %.0f s", getattr(act, "__name__", act), period)
        await asyncio.sleep(period)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
