"""What one run's process does: take its descriptors, confine itself, run the guest, report, end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from app_loader import landlock
from app_loader.confinement import confine_to_folders, confine_to_itself
from app_loader.engine import strings
from app_loader.errors import AppLoaderError, EngineError
from app_loader.kernel import die_with, set_name
from app_loader.process_usage import own_usage
from app_loader.program import Program
from app_loader.runner_messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    MAX_REPORT,
    STANDARD_STREAMS,
    Assignment,
    GuestMount,
    Report,
    Start,
    order_decoder,
)
from app_loader.wasmtime_binding import check, library
from keep_protocol.states import ExitReason

if TYPE_CHECKING:
    from app_loader.preview1.linking import ShimModules
    from app_loader.preview1.running import FirstDescriptors

_TABLES = 16
_TABLE_ELEMENTS = 1_000_000
_OPEN_FILES = 1024

_assignment_decoder = msgspec.json.Decoder(Assignment)


def become_child(runner: int) -> None:
    """The first steps of every child of the runner: it dies with the runner, has a name, and makes no processes."""
    die_with(runner, signal.SIGKILL)
    set_name("keep-run")
    confine_to_itself()


def wait_and_run(programs: Mapping[str, Program], channel: socket.socket) -> None:
    """Be the process of the run that comes over `channel`, if one comes."""
    _rehearse(next(iter(programs.values())))
    packet, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, MAX_DESCRIPTORS)
    channel.close()
    if packet:
        order = order_decoder.decode(packet)
        if isinstance(order, Start):
            run(programs[order.module], descriptors)


def _rehearse(program: Program) -> None:
    """Do what every run does before it instantiates its module.

    A page that is shared with the runner is copied when it is first written to: here, and not while a client waits.
    """
    assignment = _assignment_decoder.decode(msgspec.json.encode(Assignment(("",), (), 0, 0, ())))
    library().wasmtime_store_delete(new_store(program, 0, wasi_configuration(assignment, [])))


def run(program: Program, descriptors: list[int], shim_modules: ShimModules | None = None) -> None:
    """Be the process of one run, up to its report; the caller ends the process. Never raises `Exception`.

    `descriptors` are those of `Start`. The other descriptors that are open are wasmtime's.
    """
    memfd, stdin, stdout, stderr, report_pipe, *others = descriptors
    before = own_usage().cpu
    try:
        assignment = _read_assignment(memfd)
        folders, sockets = others[: len(assignment.mounts)], others[len(assignment.mounts) :]
        if shim_modules is None:
            _become_run(assignment, _streams(assignment, (stdin, stdout, stderr)))
            report = _execute(program, assignment, folders)
        else:
            # Here, so that runs without sockets do not pay for it.
            from app_loader.preview1.running import FirstDescriptors

            first = FirstDescriptors(assignment.files or (), (stdin, stdout, stderr), sockets)
            _become_run(assignment, first.streams())
            report = _execute(program, assignment, folders, first, shim_modules)
    except (AppLoaderError, OSError, msgspec.DecodeError) as error:
        report = Report(ExitReason.LOST, message=f"the run could not be set up: {error}")
    # The server reads the outputs to their end when it has the report, so they end before it.
    os.close(1)
    os.close(2)
    with contextlib.suppress(BrokenPipeError):
        os.write(report_pipe, _encoded(msgspec.structs.replace(report, usage=own_usage(before))))
    os.close(report_pipe)


def _encoded(report: Report) -> bytes:
    """Names in a backtrace are the guest's, and JSON escapes may make them six times as long."""
    encoded = msgspec.json.encode(report)
    if len(encoded) > MAX_REPORT:
        encoded = msgspec.json.encode(msgspec.structs.replace(report, backtrace=()))
    return encoded


def _read_assignment(memfd: int) -> Assignment:
    with open(memfd, "rb") as file:
        file.seek(0)
        return _assignment_decoder.decode(file.read())


def _become_run(assignment: Assignment, stdio: Iterable[int]) -> None:
    for target, descriptor in enumerate(stdio):
        os.dup2(descriptor, target, inheritable=True)
        os.close(descriptor)
    # A write beyond the limit fails with EFBIG instead of ending the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (assignment.file_size, assignment.file_size))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def _streams(assignment: Assignment, given: tuple[int, int, int]) -> tuple[int, ...]:
    """What becomes standard input, output and error; a stream that `files` leaves out leads nowhere."""
    if assignment.files is None:
        return given
    kinds = [file.kind for file in assignment.files]
    streams = []
    for number, (name, stream) in enumerate(zip(STANDARD_STREAMS, given, strict=True)):
        if kinds[number : number + 1] == [name]:
            streams.append(stream)
        else:
            os.close(stream)
            streams.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    return tuple(streams)


def _execute(
    program: Program,
    assignment: Assignment,
    folders: list[int],
    first: FirstDescriptors | None = None,
    shim_modules: ShimModules | None = None,
) -> Report:
    wasmtime = library()
    wasi = wasi_configuration(assignment, folders, () if first is None else first.placeholders())
    rules = [
        landlock.Rule(folder, landlock.WRITE if mount.writable else landlock.READ)
        for mount, folder in zip(assignment.mounts, folders, strict=True)
    ]
    if first is not None:
        rules.append(landlock.Rule(first.placeholder, landlock.READ))
    confine_to_folders(rules)
    for folder in folders:
        os.close(folder)
    if first is None or shim_modules is None:
        context = wasmtime.wasmtime_store_context(new_store(program, assignment.memory, wasi))
        return program.run(context, assignment.memory)
    return first.run(program, shim_modules, assignment.memory, wasi)


def new_store(program: Program, memory: int, wasi: int, *, extra_instances: int = 0, extra_memories: int = 0) -> int:
    """A `wasmtime_store_t` with limits for this program. `memory` is in bytes; `wasi` is taken over."""
    wasmtime = library()
    store = int(wasmtime.wasmtime_store_new(program.engine.pointer, None, None))
    wasmtime.wasmtime_store_limiter(
        store,
        memory,
        _TABLE_ELEMENTS,
        program.max_instances + extra_instances,
        _TABLES,
        program.max_memories + extra_memories,
    )
    # Without this, a guest's first call of WASI aborts the process.
    check(wasmtime.wasmtime_context_set_wasi(wasmtime.wasmtime_store_context(store), wasi))
    return store


def wasi_configuration(
    assignment: Assignment, folders: list[int], placeholders: Iterable[tuple[GuestMount, int]] = ()
) -> int:
    """A `wasi_config_t` with this process's standard streams. Raises `EngineError`.

    `placeholders` are folders that get the numbers before those of the mounts.
    """
    wasmtime = library()
    wasi = int(wasmtime.wasi_config_new())
    names = [name for name, _ in assignment.environment]
    values = [value for _, value in assignment.environment]
    if not wasmtime.wasi_config_set_argv(wasi, len(assignment.arguments), strings(list(assignment.arguments))):
        raise EngineError("wasmtime refused the arguments")
    if not wasmtime.wasi_config_set_env(wasi, len(names), strings(names), strings(values)):
        raise EngineError("wasmtime refused the environment")
    wasmtime.wasi_config_inherit_stdin(wasi)
    wasmtime.wasi_config_inherit_stdout(wasi)
    wasmtime.wasi_config_inherit_stderr(wasi)
    for mount, folder in (*placeholders, *zip(assignment.mounts, folders, strict=True)):
        _preopen(wasi, mount, folder)
    return wasi


def _preopen(wasi: int, mount: GuestMount, folder: int) -> None:
    path = f"/proc/self/fd/{folder}".encode()
    if not library().wasi_config_preopen_dir(wasi, path, mount.guest.encode(), mount.writable):
        raise EngineError(f"the folder for {mount.guest!r} cannot be opened")
