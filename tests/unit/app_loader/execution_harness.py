"""A keep's execution part with its real processes, for tests: forked runner, workload, runs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import wasmtime

from app_loader.area_states import prepare_areas
from app_loader.at_rest.sealed_storage import SealedStorage
from app_loader.calls import Calls
from app_loader.compilation import DEFAULT_COMPILE_LIMITS, CompileLimits
from app_loader.configuration_store import ConfigurationStore
from app_loader.events import Events
from app_loader.files import Files
from app_loader.identity import Identity
from app_loader.oom import OomKills
from app_loader.run_sockets import SocketOpener
from app_loader.runner import Runner
from app_loader.runs import Runs
from app_loader.sealer_source import SealerSource
from app_loader.sealing.sealer import Sealer
from app_loader.secret_store import SecretStore
from app_loader.storage import PLAIN, Storage
from app_loader.tls_relay import TlsRelay
from app_loader.workload import Workload
from app_loader.workload_tls import WorkloadTls
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.handover import Configuration
from keep_protocol.keep_api import CallRequest, Run, RunExit, RunRequest, WorkloadInfo
from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, Principal
from keep_protocol.states import AtRest, Backend, KeepRole, RunState
from tests.unit.app_loader.loopback import Loopback

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[3]
GUESTS = REPOSITORY / "tests" / "guests"
ECHO = (REPOSITORY / "examples" / "echo" / "echo.wasm").read_bytes()
PATIENCE = 60.0
"""Seconds after which a test fails instead of hanging."""

RETURNS = '(module (memory (export "memory") 1) (func (export "_start")))'
SPINS = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\08\\00\\00\\00")
  (data (i32.const 16) "spinning")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $again (br $again))))"""


HOST_KEY = base64.b64encode(bytes(range(32))).decode()


def spec(
    *, restart_runs: bool = False, at_rest: AtRest = AtRest.PLAIN, network: NetworkPolicy = NO_NETWORK, **limits: int
) -> KeepSpec:
    return KeepSpec(
        version=1,
        nonce="0" * 32,
        backend=Backend.PROCESS,
        at_rest=at_rest,
        evidence=None,
        network=network,
        principals=(Principal(roles=(KeepRole.OWNER,), certificate="AAAA"),),
        limits=msgspec.structs.replace(DEFAULT_LIMITS, **limits),
        restart_runs=restart_runs,
    )


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def guest(name: str) -> bytes:
    return (GUESTS / f"{name}.wasm").read_bytes()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def ending(run: Run) -> RunExit:
    assert run.state == RunState.EXITED
    assert run.exit is not None
    return run.exit


@contextlib.contextmanager
def refused(code: ErrorCode) -> Iterator[None]:
    with pytest.raises(RefusalError) as refusal:
        yield
    assert refusal.value.code == code


@dataclass(slots=True)
class Execution:
    """What a scenario works with."""

    state: Path
    runner: Runner
    workload: Workload
    runs: Runs
    calls: Calls
    configuration: ConfigurationStore
    files: Files
    source: SealerSource | None = None

    async def sealer(self) -> Sealer:
        assert self.source is not None
        return await self.source.get()

    network: Loopback = field(default_factory=Loopback)
    secrets: SecretStore = field(default_factory=SecretStore)
    identity: Identity | None = None
    """Of the keep, as soon as a workload does TLS."""
    relay: TlsRelay | None = None
    events: Events = field(default_factory=Events)

    def tls(self) -> WorkloadTls:
        if self.identity is None or self.relay is None:
            self.identity = Identity("0" * 16, "example.org", ("localhost",))
            self.relay = TlsRelay()
        return WorkloadTls(self.identity, self.secrets, self.relay)

    async def load(self, wasm: bytes) -> WorkloadInfo:
        fits = self.configuration.check_sockets
        return await self.workload.replace(stream(wasm), expected_digest=None, size=len(wasm), fits=fits)

    async def run(self, request: RunRequest | None = None) -> Run:
        started = await self.runs.start(request or RunRequest())
        return await self.finished(started.id)

    async def call(self, function: str, *arguments: Any, **limits: float) -> Any:
        """What a function returns."""
        request = CallRequest(arguments=msgspec.Raw(msgspec.json.encode(arguments)))
        result = await self.calls.call(function, msgspec.structs.replace(request, **limits))
        return msgspec.json.decode(result.result)

    async def finished(self, run_id: str) -> Run:
        return await self.runs.wait(run_id, PATIENCE)

    async def stdout(self, run: Run, *, offset: int = 0, follow: bool = False) -> bytes:
        return b"".join([block async for block in self.runs.output(run.id, "stdout", offset=offset, follow=follow)])

    async def stderr(self, run: Run) -> bytes:
        return b"".join([block async for block in self.runs.output(run.id, "stderr", offset=0, follow=False)])

    async def process_of(self, run: Run) -> int:
        """The pid of a run that is going."""
        async with asyncio.timeout(PATIENCE):
            while (pid := self.runner.pids.get(run.id)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return pid

    async def spinning(self, run: Run) -> int:
        """The pid of a run of `SPINS`, once the guest is at it."""
        assert await anext(aiter(self.runs.output(run.id, "stdout", offset=0, follow=True))) == b"spinning"
        return await self.process_of(run)

    async def close(self) -> None:
        await self.runs.close()
        self.calls.close()
        await self.runner.close()
        if self.relay is not None:
            self.relay.close()


def execute(
    state: Path,
    scenario: Callable[[Execution], Awaitable[T]],
    of: KeepSpec | None = None,
    compile_limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
    oom_kills: OomKills | None = None,
    *,
    host_keys: tuple[str, ...] = (HOST_KEY,),
) -> T:
    """Fork a runner on `state`, restore what is there, play the scenario, end everything."""
    prepare_areas(state / "files")
    runner = Runner.fork(state)
    wanted = of or spec()

    async def play() -> T:
        await runner.attach()
        configuration = Configuration("0123456789abcdef", "01234567", "", "example.org", (), sealing_keys=host_keys)
        sealer = SealerSource(configuration, wanted, state, None)
        sealed = wanted.at_rest is AtRest.SEALED
        storage: Storage = SealedStorage(state, sealer.find, sealer.hardware) if sealed else PLAIN
        files = Files(state / "files", wanted.limits.files, storage, memory=wanted.limits.memory)
        workload_configuration = ConfigurationStore(state, wanted, storage)
        workload = Workload(
            *(state, runner, wanted.limits, compile_limits),
            files=files,
            storage=storage,
            features=workload_configuration.features,
        )
        workload.restore()
        workload_configuration.restore()
        opener = SocketOpener(lambda: execution.network, state / "workload", lambda: execution.tls())
        secrets = SecretStore()
        events = Events()
        runs = Runs(
            *(state, runner, workload, wanted, oom_kills, secrets),
            configuration=workload_configuration,
            files=files,
            sealer=sealer.get,
            sockets=lambda: opener,
            events=events,
        )
        runs.restore()
        calls = Calls(runner, workload, wanted.limits, oom_kills, events)
        parts = (state, runner, workload, runs, calls, workload_configuration, files, sealer)
        execution = Execution(*parts, secrets=secrets, events=events)
        try:
            async with asyncio.timeout(PATIENCE):
                return await scenario(execution)
        finally:
            await execution.close()

    return asyncio.run(play())


def execute_until_killed(
    state: Path, scenario: Callable[[Execution], Awaitable[None]], of: KeepSpec | None = None
) -> None:
    """Play a scenario in a process of its own, which is killed with SIGKILL as soon as the scenario returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):

            async def play(execution: Execution) -> None:
                await scenario(execution)
                os.write(writer, b"!")
                await asyncio.sleep(PATIENCE)

            execute(state, play, of)
        os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"!", "the scenario failed"
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def memory_holds(pid: int, content: bytes) -> bool:
    """Whether any memory of a process that can be read has these bytes in it."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if (
                permissions.startswith("r")
                and end - start < 2**30
                and _region_holds(memory.fileno(), start, end, content)
            ):
                return True
    return False


def _region_holds(memory: int, start: int, end: int, content: bytes) -> bool:
    block = 4 * 1024 * 1024
    for offset in range(start, end, block):
        try:
            part = os.pread(memory, min(block + len(content), end - offset), offset)
        except OSError:  # [vvar], guard pages
            return False
        if content in part:
            return True
    return False


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process can grow beyond `room` bytes: as on a full disk, but for the errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
