"""The server's side of a compilation: a child of the runner, its limits, and what its end means."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import Collection
from pathlib import Path

import msgspec

from app_loader.runner import Runner
from app_loader.runner_messages import Compile, CompileReport, Ended
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import WorkloadDescription
from keep_protocol.spec import MiB
from keep_protocol.states import WasmFeature
from keep_protocol.strict_json import decode_strictly

_MAX_REPORT = 4 * MiB
_MAX_WORDS = 64 * 1024
_MAX_LOGGED = 1000
_MAX_LINE = 300
_OUT_OF_MEMORY = "memory allocation of"
"""How Rust begins to say, before it aborts, that there is no memory; a panic aborts with other words."""
_log = logging.getLogger(__name__)
_counter = itertools.count(1)


class CompileLimits(msgspec.Struct, frozen=True):
    """What one compilation may use; it is hostile input to a large program."""

    cpu_seconds: int = 120
    address_space: int = 2048 * MiB
    wall_seconds: float = 900.0


DEFAULT_COMPILE_LIMITS = CompileLimits()


class Compiled(msgspec.Struct, frozen=True):
    """SHA-256, in hex, of the module that was read and of the compiled one that was written; and what it is."""

    source: str
    digest: str
    description: WorkloadDescription


async def compile_file(
    runner: Runner, source: Path, target: Path, limits: CompileLimits, features: Collection[WasmFeature] = ()
) -> Compiled:
    """Compile `source` into the new file `target`; both are on disk afterwards. It may need `features`, and no others.

    Raises `RefusalError` (`compile-failed`, `compile-limit`, `workload-invalid`, `feature-off`) and `RunnerDiedError`.
    """
    return await compile_opened(runner, *_open(source, target), limits, features)


async def compile_opened(
    runner: Runner, source: int, target: int, limits: CompileLimits, features: Collection[WasmFeature] = ()
) -> Compiled:
    """As `compile_file`, for open files, which are closed here."""
    loop = asyncio.get_running_loop()
    process = f"compilation-{next(_counter)}"
    gone: asyncio.Future[Ended] = loop.create_future()
    order = Compile(process, limits.cpu_seconds, limits.address_space, tuple(sorted(features)))
    report = os.memfd_create("report", os.MFD_CLOEXEC)
    stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        runner.spawn(order, (source, target, os.dup(report), os.dup(stderr)), gone.set_result)
        try:
            async with asyncio.timeout(limits.wall_seconds):
                event = await asyncio.shield(gone)
        except TimeoutError:
            raise _limit_refusal(f"{limits.wall_seconds:g} s") from None
        finally:
            if not gone.done():
                runner.kill(process)
        written = _read_report(report)
        if written is None:
            raise died(event, os.pread(stderr, _MAX_WORDS, 0), limits)
        return _result(written, features)
    finally:
        os.close(report)
        os.close(stderr)


def _open(source: Path, target: Path) -> tuple[int, int]:
    module = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return module, os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except BaseException:
        os.close(module)
        raise


def _read_report(report: int) -> CompileReport | None:
    try:
        return decode_strictly(os.pread(report, _MAX_REPORT, 0), CompileReport)
    except msgspec.DecodeError:
        return None


def _result(report: CompileReport, features: Collection[WasmFeature]) -> Compiled:
    if report.exhausted is not None:
        raise _limit_refusal(report.exhausted)
    if report.error is not None:
        raise RefusalError(ErrorCode.COMPILE_FAILED, report.error)
    if report.invalid is not None:
        raise RefusalError(ErrorCode.WORKLOAD_INVALID, report.invalid)
    if report.needed:
        # Here, so that keeps whose workloads need none do not pay for it.
        from keep_protocol.webassembly.features import check_features

        check_features(report.needed, features)
    if report.description is None:
        raise RefusalError(ErrorCode.COMPILE_FAILED, "the compiler does not say what it has compiled")
    return Compiled(report.source, report.digest, report.description)


def died(event: Ended, stderr: bytes, limits: CompileLimits) -> RefusalError:
    """Why a compiler ended without a report. `stderr` is what it wrote there."""
    if event.error is not None:
        return _limit_refusal(event.error)
    if event.signal in {signal.SIGXCPU, signal.SIGKILL}:
        return _limit_refusal(f"{limits.cpu_seconds} s of processor time, or the memory of the keep")
    words = stderr.decode(errors="backslashreplace")
    if event.signal == signal.SIGABRT and _OUT_OF_MEMORY in words:
        return _limit_refusal(f"{limits.address_space // MiB} MiB of memory")
    how = f"code {event.code}" if event.signal is None else signal.Signals(event.signal).name
    # For who can mend it: the tenant is told in one line.
    _log.error("the compiler ended with %s: %s", how, ascii(words[:_MAX_LOGGED]))
    line = next((line.strip() for line in words.splitlines() if line.strip()), "")
    return RefusalError(
        ErrorCode.COMPILE_FAILED,
        f"the compiler crashed with {how}{f': {line[:_MAX_LINE]}' if line else ''}",
        remedy="this is no fault of the module's, unless it nests very deeply: report it, and try another build of it",
    )


def _limit_refusal(limit: str) -> RefusalError:
    return RefusalError(
        ErrorCode.COMPILE_LIMIT,
        f"compiling the module exceeded a limit: {limit}",
        remedy="split very large functions; a usual program of 25 MB compiles in seconds",
    )
