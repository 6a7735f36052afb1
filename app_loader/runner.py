"""The server's handle of the runner process: forked before there is a key, asked over one socketpair."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from app_loader.dormant_runner import sleep_until_ordered
from app_loader.errors import ModuleLoadError, RunnerDiedError
from app_loader.plaintext_memory import make_plaintext_folder, remove_plaintext_folder
from app_loader.runner_messages import (
    MAX_PACKET,
    Compile,
    Confined,
    Ended,
    Failed,
    Kill,
    Load,
    Loaded,
    Order,
    Serve,
    Start,
    Started,
    Unload,
    Warm,
    Warmed,
    event_decoder,
    order_encoder,
)
from keep_protocol.handover import SandboxFact
from keep_protocol.keep_api import WorkloadDescription
from keep_protocol.states import FileArea, WorkloadKind

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0


class Runner:
    """Starts and kills runs and compilations. If it dies it cannot be replaced: by then the server has its key."""

    def __init__(self, pid: int, channel: socket.socket, state: Path) -> None:
        self._pid = pid
        self._state = state
        self._ordered = False
        self._channel = channel
        self._pidfd = -1
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._ended: dict[str, Callable[[Ended], None]] = {}
        self._loading: dict[str, asyncio.Future[str | None]] = {}
        self._warming: asyncio.Future[str | None] | None = None
        self._confined: asyncio.Future[tuple[SandboxFact, ...]] | None = None
        self._closing = False
        self.pids: dict[str, int] = {}
        """Of the runs and compilations that live."""
        self.died = asyncio.Event()

    @classmethod
    def fork(cls, state: Path) -> Runner:
        """Make the runner of a keep with this state folder, whose folders are made too.

        Before an event loop runs and before the process holds anything secret: a fork copies all memory.
        """
        _make_folders(state)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server = os.getpid()
        # A collection in the server would write to the head of every object, and so unshare all that both have.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            sleep_until_ordered(theirs, server, state)
        theirs.close()
        ours.setblocking(False)
        return cls(pid, ours, state)

    @property
    def pid(self) -> int:
        """The runner's process id."""
        return self._pid

    async def attach(self) -> None:
        """Join the running event loop. Once, before anything else here is used."""
        loop = asyncio.get_running_loop()
        self._confined = loop.create_future()
        self._pidfd = os.pidfd_open(self._pid)
        loop.add_reader(self._pidfd, self._reap)
        loop.add_reader(self._channel.fileno(), self._receive)

    async def facts(self) -> tuple[SandboxFact, ...]:
        """How far the runner is confined; known when it obeys its first order. Raises `RunnerDiedError`."""
        assert self._confined is not None, "attach first"
        return await asyncio.shield(self._confined)

    async def warm(self) -> None:
        """Map wasmtime, so that the first run does not wait for it. Raises `ModuleLoadError`, `RunnerDiedError`."""
        self._check_alive()
        self._warming = asyncio.get_running_loop().create_future()
        self._send(Warm())
        if error := await self._warming:
            raise ModuleLoadError(error)

    async def load(self, module: str, source: Path | int, digest: str, description: WorkloadDescription) -> None:
        """Let the runner map a compiled module or component whose SHA-256 in hex is `digest`, as `module`.

        `source` is a file that the runner may read, or the descriptor of one, which is closed here. Raises
        `ModuleLoadError` and `RunnerDiedError`.
        """
        path, descriptors = ("", (source,)) if isinstance(source, int) else (str(source), ())
        try:
            self._check_alive()
        except RunnerDiedError:
            close_all(descriptors)
            raise
        loaded = self._loading[module] = asyncio.get_running_loop().create_future()
        try:
            kind = description.kind
            http = kind is WorkloadKind.HTTP_PROXY
            self._send(Load(module, path, digest, kind.is_component, http, description.features), descriptors)
            if error := await loaded:
                raise ModuleLoadError(error)
        finally:
            self._loading.pop(module, None)

    def unload(self, module: str) -> None:
        """Let the runner forget a module; runs that are going keep it."""
        if not self.died.is_set():
            self._send(Unload(module))

    def spawn(
        self, order: Start | Serve | Compile, descriptors: tuple[int, ...], ended: Callable[[Ended], None]
    ) -> None:
        """Start a child, which gets copies of `descriptors`; these are closed here, whatever happens.

        `ended` is called once, when the child is gone, was not to be started, or the runner died. Raises
        `RunnerDiedError` instead when the runner is dead already.
        """
        try:
            self._check_alive()
        except RunnerDiedError:
            close_all(descriptors)
            raise
        self._ended[order.process] = ended
        self._send(order, descriptors)

    def kill(self, process: str) -> None:
        """SIGKILL for a child; its `ended` tells when it is gone."""
        if not self.died.is_set():
            self._send(Kill(process))

    async def close(self) -> None:
        """End the runner with all its children and wait until it is gone."""
        if not self.died.is_set():
            await self._end()
        if self._ordered:
            await asyncio.to_thread(remove_plaintext_folder, self._state)

    async def _end(self) -> None:
        self._closing = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        loop.remove_writer(self._channel.fileno())
        self._channel.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.died.wait()
        except TimeoutError:
            # Its children have asked the kernel to die with it.
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.died.wait()

    def _check_alive(self) -> None:
        if self.died.is_set():
            raise RunnerDiedError("the runner process is gone")

    def _send(self, order: Order, descriptors: tuple[int, ...] = ()) -> None:
        if not self._ordered:
            self._prepare_memory()
        self._unsent.append((order_encoder.encode(order), descriptors))
        if len(self._unsent) == 1:
            self._flush()

    def _prepare_memory(self) -> None:
        """With its first order it confines itself, to what exists then. A keep without one needs no such folder."""
        self._ordered = True
        try:
            make_plaintext_folder(self._state)
        except OSError as error:
            _log.error("runs will have no files in memory: %s", error)

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                socket.send_fds(self._channel, [packet], descriptors)
            except BlockingIOError:
                loop.add_writer(self._channel.fileno(), self._flush)
                return
            except OSError as error:  # it is dying, which `_reap` reports
                _log.warning("the runner takes no orders: %s", error)
            self._unsent.popleft()
            close_all(descriptors)
        loop.remove_writer(self._channel.fileno())

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while packet := self._channel.recv(MAX_PACKET):
                self._take(packet)
            asyncio.get_running_loop().remove_reader(self._channel.fileno())

    def _take(self, packet: bytes) -> None:
        match event_decoder.decode(packet):
            case Started(process, pid):
                self.pids[process] = pid
            case Ended() as event:
                self.pids.pop(event.process, None)
                if ended := self._ended.pop(event.process, None):
                    ended(event)
            case Loaded(module, error):
                _resolve(self._loading.get(module), error)
            case Warmed(error):
                _resolve(self._warming, error)
            case Confined(facts):
                for fact in facts:
                    if not fact.holds:
                        _log.warning("%s does not hold: %s", fact.name, fact.detail)
                _resolve(self._confined, facts)
            case Failed(error):
                _log.error("the runner failed: %s", error)

    def _reap(self) -> None:
        """The runner is dead: whoever waits for it hears of it."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self._pid, 0)
        if not self._closing:
            self._receive()
            _log.error("the runner ended with status %d", os.waitstatus_to_exitcode(status))
            loop.remove_reader(self._channel.fileno())
            loop.remove_writer(self._channel.fileno())
            self._channel.close()
        os.close(self._pidfd)
        for _, descriptors in self._unsent:
            close_all(descriptors)
        self._unsent.clear()
        self.died.set()
        for future in (self._confined, self._warming, *self._loading.values()):
            if future is not None and not future.done():
                future.set_exception(RunnerDiedError("the runner process is gone"))
                future.exception()  # nobody may be waiting for it
        for process, ended in tuple(self._ended.items()):
            ended(Ended(process, error="the runner process died"))
        self._ended.clear()
        self.pids.clear()


def _make_folders(state: Path) -> None:
    """Here, because the runner can only be allowed to reach folders that exist when it is forked."""
    for name in ("workload", "runs", "files", *(f"files/{area}" for area in FileArea)):
        (state / name).mkdir(mode=0o700, exist_ok=True)


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that were to be given away."""
    for descriptor in descriptors:
        os.close(descriptor)


def _resolve(future: asyncio.Future[T] | None, value: T) -> None:
    if future is not None and not future.done():
        future.set_result(value)
