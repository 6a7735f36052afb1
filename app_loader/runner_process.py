"""The runner: a process without secrets, sockets or programs, that maps modules and forks compilations and runs.

It never runs a guest itself, so it is always there to reap and to kill.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import resource
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app_loader import compiler, confinement, guest
from app_loader.children import Children
from app_loader.engine import Engine, Linker, Module
from app_loader.errors import EngineError
from app_loader.module_program import ModuleProgram
from app_loader.program import Program
from app_loader.runner_messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    Compile,
    Confined,
    Ended,
    Event,
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
    Work,
    order_decoder,
    order_encoder,
)
from keep_protocol.states import WasmFeature

if TYPE_CHECKING:
    from app_loader.component_program import ComponentLinker
    from app_loader.preview1.linking import ShimModules

_SPARE = "spare"
"""Name of the child that waits for the next run, so that a run need not wait for a fork."""

_QUIET = 5
"""Milliseconds without an order after which a spare is made. Beside a run that begins, a fork would hold that up."""

_BLOCK = 1024 * 1024


def become_runner(channel: socket.socket, state: Path) -> None:
    """Obey the orders in `channel` until the server closes its end. Raises `ConfinementError`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    process = _RunnerProcess(channel)
    process.send(Confined(confinement.confine_runner(state)))
    process.serve()


class _RunnerProcess:
    """The runner's loop: orders come in, children end, and both are answered."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._linkers: dict[tuple[WasmFeature, ...], Linker] = {}
        """With an engine each, by its features; those that are usual are there first."""
        self._component_linkers: dict[Engine, ComponentLinker] = {}
        self._programs: dict[str, Program] = {}
        self._shims: dict[Engine, ShimModules] = {}
        """Compiled with the first run that has sockets."""
        self._spare: socket.socket | None = None
        """To the child that waits for the next run; it knows the modules that were mapped when it was forked."""
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._children = Children(self._poll)

    def send(self, event: Event) -> None:
        """Blocks while the server does not read: it then has enough to do."""
        self._channel.send(order_encoder.encode(event))

    def serve(self) -> None:
        """Until the server is gone; then all children are killed."""
        while True:
            # None while there is no workload: an idle keep pays for what it uses.
            spare_wanted = self._spare is None and bool(self._programs)
            events = self._poll.poll(_QUIET if spare_wanted else None)
            if not events:
                self._make_spare()
            for descriptor, _ in events:
                if descriptor in self._children:
                    self._reap(descriptor)
                    self._make_spare()
                elif not self._obey_next():
                    self._children.kill_all()
                    return

    def _reap(self, descriptor: int) -> None:
        ended = self._children.reap(descriptor)
        if ended is None:
            return
        if ended.process == _SPARE:
            self._drop_spare()
        else:
            self.send(ended)

    def _obey_next(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._channel, MAX_PACKET, MAX_DESCRIPTORS)
        if not packet:
            return False
        try:
            self._obey(order_decoder.decode(packet), packet, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _obey(self, order: Order, packet: bytes, descriptors: list[int]) -> None:
        match order:
            case Start():
                self._start(order, packet, descriptors)
            case Serve():
                self._serve(order, descriptors)
            case Kill():
                self._children.kill(order.process)
            case Compile():
                self._fork(order.process, lambda: compiler.compile_module(order, descriptors))
            case Load():
                self.send(Loaded(order.module, self._load(order, descriptors)))
                self._discard_spare()
            case Unload():
                if program := self._programs.pop(order.module, None):
                    program.close()
                    self._discard_spare()
            case Warm():
                self.send(Warmed(self._warm()))

    def _warm(self) -> str | None:
        try:
            self._linker()
        except EngineError as error:
            return str(error)
        return None

    def _linker(self, features: tuple[WasmFeature, ...] = ()) -> Linker:
        """Wasmtime refuses code that was compiled for more features than an engine has, so each set has its own."""
        linker = self._linkers.get(features)
        if linker is None:
            if not self._linkers:
                confinement.prepare_run()
            linker = self._linkers[features] = Linker(Engine(features))
            gc.freeze()
        return linker

    def _load(self, order: Load, descriptors: list[int]) -> str | None:
        path = Path(order.path or f"/proc/self/fd/{descriptors[0]}")
        try:
            linker = self._linker(order.features)
            if (found := _sha256(path)) != order.digest:
                return f"{path.name} has the digest {found}, not {order.digest}"
            if order.http:
                self._programs[order.module] = _load_http(linker.engine, path)
            elif order.component:
                self._programs[order.module] = self._load_component(linker.engine, path)
            else:
                self._programs[order.module] = _load_module(linker, path)
        except (EngineError, OSError) as error:
            return str(error)
        return None

    def _load_component(self, engine: Engine, path: Path) -> Program:
        # Here, so that keeps that run modules do not pay for it.
        from app_loader.component_program import Component, ComponentLinker, ComponentProgram

        if engine not in self._component_linkers:
            self._component_linkers[engine] = ComponentLinker(engine)
            gc.freeze()
        return ComponentProgram(engine, self._component_linkers[engine], Component.map(engine, path))

    def _start(self, order: Start, packet: bytes, descriptors: list[int]) -> None:
        program = self._programs.get(order.module)
        if order.shimmed:
            self._start_shimmed(order, program, descriptors)
        elif program is None:
            self.send(Ended(order.process, error="its module is not loaded"))
        elif self._give_to_spare(packet, descriptors):
            self.send(Started(order.process, self._children.rename(_SPARE, order.process)))
        else:
            self._fork(order.process, lambda: guest.run(program, descriptors))

    def _start_shimmed(self, order: Start, program: Program | None, descriptors: list[int]) -> None:
        """A spare that was forked before the shim was compiled has none, so these runs have a fork of their own."""
        # Here, so that keeps without sockets do not pay for it.
        from app_loader.preview1.linking import ShimModules

        if not isinstance(program, ModuleProgram):
            self.send(Ended(order.process, error="its module is not loaded, or is none for WASI preview 1"))
            return
        engine = program.engine
        if engine not in self._shims:
            try:
                self._shims[engine] = ShimModules(engine)
            except EngineError as error:
                self.send(Ended(order.process, error=f"the shim for sockets cannot be compiled: {error}"))
                return
            gc.freeze()
        modules = self._shims[engine]
        self._fork(order.process, lambda: guest.run(program, descriptors, modules))

    def _serve(self, order: Serve, descriptors: list[int]) -> None:
        program = self._programs.get(order.module)
        if program is None:
            self.send(Ended(order.process, error="its module is not loaded"))
            return

        def work() -> None:
            # Here, so that keeps whose functions nobody calls do not pay for it.
            channel = socket.socket(fileno=descriptors[0])
            if order.work is Work.HTTP:
                from app_loader.wasi_http.serving import serve_http

                serve_http(program, channel, descriptors[1], descriptors[2:])
            else:
                from app_loader.calling import serve_calls

                serve_calls(program, channel)

        self._fork(order.process, work)

    def _fork(self, name: str, work: Callable[[], None]) -> None:
        try:
            self.send(Started(name, self._children.fork(name, work, self._private())))
        except OSError as error:
            self.send(Ended(name, error=f"no process could be made: {error.strerror}"))

    def _private(self) -> tuple[int, ...]:
        spare = () if self._spare is None else (self._spare.fileno(),)
        return (self._channel.fileno(), *spare)

    def _give_to_spare(self, packet: bytes, descriptors: list[int]) -> bool:
        """Whether the spare child took the run."""
        if self._spare is None:
            return False
        try:
            socket.send_fds(self._spare, [packet], descriptors)
        except OSError:  # it was killed; being reaped comes next
            return False
        self._drop_spare()
        return True

    def _discard_spare(self) -> None:
        """It knows other modules than there are."""
        self._children.discard(_SPARE)
        self._drop_spare()

    def _make_spare(self) -> None:
        """Only between orders: while one is obeyed, descriptors of its run are open here, and a fork has them all."""
        if self._spare is not None or not self._programs:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def work() -> None:
            guest.wait_and_run(self._programs, theirs)

        # Without a spare, as when the keep's tasks are used up, a run is forked when it is wanted.
        with contextlib.suppress(OSError):
            self._children.fork(_SPARE, work, (*self._private(), ours.fileno()))
            self._spare = ours
        if self._spare is None:
            ours.close()
        theirs.close()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None


def _load_http(engine: Engine, path: Path) -> Program:
    # Here, so that keeps that run modules do not pay for it; also what its processes import when they serve.
    import app_loader.wasi_http.serving  # noqa: F401
    from app_loader.component_program import Component
    from app_loader.wasi_http.program import HttpProgram

    program = HttpProgram(engine, Component.map(engine, path))
    gc.freeze()
    return program


def _load_module(linker: Linker, path: Path) -> Program:
    module = Module.map(linker.engine, path)
    try:
        return ModuleProgram(linker, module)
    except EngineError:
        module.close()
        raise


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.sha256()
        block = bytearray(_BLOCK)
        while count := file.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()
