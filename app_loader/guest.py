"""What one run's process does: take its descriptors, confine itself, run the guest, report, end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
from collections.abc import Iterable, Mapping
from ctypes import byref, c_uint8, c_void_p

import msgspec

from app_loader import landlock
from app_loader.confinement import confine_to_folders, confine_to_itself
from app_loader.engine import Command, Engine, ExitCode, strings
from app_loader.errors import AppLoaderError, EngineError
from app_loader.kernel import die_with, set_name
from app_loader.runner_messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    MAX_REPORT,
    Assignment,
    GuestMount,
    Report,
    Start,
    order_decoder,
)
from app_loader.wasmtime_binding import (
    ByteVector,
    Extern,
    Instance,
    PointerVector,
    Value,
    check,
    library,
    peek_bytes,
    take_bytes,
    take_error,
)
from keep_protocol.states import ExitReason

_PAGE = 65536
_TABLES = 16
_TABLE_ELEMENTS = 1_000_000
_OPEN_FILES = 1024
_MAX_FRAMES = 32
_MAX_NAME = 128
_MAX_MESSAGE = 4096
_UNKNOWN_OFFSET = 2**64 - 1
_NUMBERING = re.compile(r"^\d+: ")

_assignment_decoder = msgspec.json.Decoder(Assignment)

# `wasmtime_trap_code_t`, trap.h, as far as a core module can meet them.
TRAPS = {
    0: "stack-overflow",
    1: "memory-out-of-bounds",
    2: "heap-misaligned",
    3: "table-out-of-bounds",
    4: "indirect-call-to-null",
    5: "bad-signature",
    6: "integer-overflow",
    7: "integer-division-by-zero",
    8: "bad-conversion-to-integer",
    9: "unreachable",
    10: "interrupt",
    11: "out-of-fuel",
    12: "atomic-wait-non-shared-memory",
    13: "null-reference",
    14: "array-out-of-bounds",
    15: "allocation-too-large",
    16: "cast-failure",
    49: "uncaught-exception",
}

# wasmtime/src/runtime/limits.rs and vm/memory.rs: all refusals of a store's limit have these words in common.
_LIMIT_WORDS = "exceeds memory limits"


def become_child(runner: int) -> None:
    """The first steps of every child of the runner: it dies with the runner, has a name, and makes no processes."""
    die_with(runner, signal.SIGKILL)
    set_name("keep-run")
    confine_to_itself()


def wait_and_run(engine: Engine, commands: Mapping[str, Command], exit_code: ExitCode, channel: socket.socket) -> None:
    """Be the process of the run that comes over `channel`, if one comes."""
    _rehearse(engine)
    packet, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, MAX_DESCRIPTORS)
    channel.close()
    if packet:
        order = order_decoder.decode(packet)
        if isinstance(order, Start):
            run(engine, commands[order.module], exit_code, descriptors)


def _rehearse(engine: Engine) -> None:
    """Do what every run does before it instantiates its module.

    A page that is shared with the runner is copied when it is first written to: here, and not while a client waits.
    """
    assignment = _assignment_decoder.decode(msgspec.json.encode(Assignment(("",), (), 0, 0, ())))
    library().wasmtime_store_delete(_new_store(engine, assignment, _wasi_configuration(assignment, [])))


def run(engine: Engine, command: Command, exit_code: ExitCode, descriptors: list[int]) -> None:
    """Be the process of one run, up to its report; the caller ends the process. Never raises `Exception`.

    `descriptors` are those of `Start`. The other descriptors that are open are wasmtime's.
    """
    memfd, stdin, stdout, stderr, report_pipe, *folders = descriptors
    try:
        assignment = _read_assignment(memfd)
        _become_run(assignment, (stdin, stdout, stderr))
        report = _execute(engine, command, exit_code, assignment, folders)
    except (AppLoaderError, OSError, msgspec.DecodeError) as error:
        report = Report(ExitReason.LOST, message=f"the run could not be set up: {error}")
    # The server reads the outputs to their end when it has the report, so they end before it.
    os.close(1)
    os.close(2)
    with contextlib.suppress(BrokenPipeError):
        os.write(report_pipe, _encoded(report))
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


def _execute(
    engine: Engine, command: Command, exit_code: ExitCode, assignment: Assignment, folders: list[int]
) -> Report:
    wasmtime = library()
    wasi = _wasi_configuration(assignment, folders)
    confine_to_folders(
        landlock.Rule(folder, landlock.WRITE if mount.writable else landlock.READ)
        for mount, folder in zip(assignment.mounts, folders, strict=True)
    )
    for folder in folders:
        os.close(folder)
    context = wasmtime.wasmtime_store_context(_new_store(engine, assignment, wasi))
    instance = Instance()
    trap = c_void_p()
    error = wasmtime.wasmtime_instance_pre_instantiate(command.instance_pre, context, byref(instance), byref(trap))
    if error or trap:
        return _failure(error, trap, exit_code, full=False)
    entry = Extern()
    name = command.entry.name.encode()
    if not wasmtime.wasmtime_instance_export_get(context, byref(instance), name, len(name), byref(entry)):
        raise EngineError(f"the module lost its export {command.entry.name!r}")
    results = (Value * 1)()
    error = wasmtime.wasmtime_func_call(
        context, byref(entry, Extern.item.offset), None, 0, results, command.entry.results, byref(trap)
    )
    full = assignment.memory - _memory_size(command, context, instance) <= _PAGE
    if error or trap:
        return _failure(error, trap, exit_code, full=full)
    return Report(ExitReason.CODE, code=0)


def _new_store(engine: Engine, assignment: Assignment, wasi: int) -> int:
    wasmtime = library()
    store = int(wasmtime.wasmtime_store_new(engine.pointer, None, None))
    wasmtime.wasmtime_store_limiter(store, assignment.memory, _TABLE_ELEMENTS, 1, _TABLES, 1)
    # Without this, a guest's first call of WASI aborts the process.
    check(wasmtime.wasmtime_context_set_wasi(wasmtime.wasmtime_store_context(store), wasi))
    return store


def _wasi_configuration(assignment: Assignment, folders: list[int]) -> int:
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
    for mount, folder in zip(assignment.mounts, folders, strict=True):
        _preopen(wasi, mount, folder)
    return wasi


def _preopen(wasi: int, mount: GuestMount, folder: int) -> None:
    path = f"/proc/self/fd/{folder}".encode()
    if not library().wasi_config_preopen_dir(wasi, path, mount.guest.encode(), mount.writable):
        raise EngineError(f"the folder for {mount.guest!r} cannot be opened")


def _memory_size(command: Command, context: int, instance: Instance) -> int:
    """Bytes of the instance's memory, as far as it exports it."""
    wasmtime = library()
    memory = Extern()
    size = 0
    for name in command.memories:
        encoded = name.encode()
        if wasmtime.wasmtime_instance_export_get(context, byref(instance), encoded, len(encoded), byref(memory)):
            size += wasmtime.wasmtime_memory_data_size(context, byref(memory, Extern.item.offset))
    return size


def _failure(error: int | None, trap: c_void_p, exit_code: ExitCode, *, full: bool) -> Report:
    """The report on a guest that did not return. `full`: its memory stood within a page of its limit."""
    if exit_code.value is not None:
        return _exited(exit_code.value, full=full)
    code = c_uint8()
    if trap:
        message, frames = _trap_message(trap), _frames("wasm_trap_trace", trap.value)
        name = TRAPS.get(code.value) if library().wasmtime_trap_code(trap, byref(code)) else None
    else:
        frames, message, name = _frames("wasmtime_error_wasm_trace", error), take_error(error or 0), None
    if full or _LIMIT_WORDS in message:
        return Report(ExitReason.MEMORY, trap=name, message=_cause(message), backtrace=frames)
    return Report(ExitReason.TRAP, trap=name, message=_cause(message), backtrace=frames)


def _exited(code: int, *, full: bool) -> Report:
    if full and code != 0:
        message = f"the guest ended with code {code} after its memory had reached the limit"
        return Report(ExitReason.MEMORY, code=code, message=message)
    return Report(ExitReason.CODE, code=code)


def _trap_message(trap: c_void_p) -> str:
    vector = ByteVector()
    library().wasm_trap_message(trap, byref(vector))
    return take_bytes(vector).rstrip(b"\0").decode(errors="replace")


def _cause(message: str) -> str:
    """The causes without the backtrace before them: one line, or several that are numbered."""
    _, _, causes = message.rpartition("Caused by:")
    lines = (_NUMBERING.sub("", line.strip()) for line in causes.splitlines())
    return ": ".join(line for line in lines if line)[:_MAX_MESSAGE] or "wasmtime gave no reason"


def _frames(function: str, owner: int | None) -> tuple[str, ...]:
    """Innermost first: `module!function+offset`, the offset in bytes from the start of the `.wasm`."""
    wasmtime = library()
    vector = PointerVector()
    getattr(wasmtime, function)(owner, byref(vector))
    frames = [_frame(vector.data[index]) for index in range(min(vector.size, _MAX_FRAMES))]
    if vector.size > _MAX_FRAMES:
        frames.append(f"… {vector.size - _MAX_FRAMES} more")
    return tuple(frames)


def _frame(frame: int) -> str:
    wasmtime = library()
    module = _name(wasmtime.wasmtime_frame_module_name(frame)) or "main"
    function = _name(wasmtime.wasmtime_frame_func_name(frame)) or f"function[{wasmtime.wasm_frame_func_index(frame)}]"
    offset = wasmtime.wasm_frame_module_offset(frame)
    # Unknown where a function was entered and had no stack left for its first instruction.
    return f"{module}!{function}" + (f"+{offset:#x}" if offset != _UNKNOWN_OFFSET else "")


def _name(vector: ctypes._Pointer[ByteVector]) -> str:
    return peek_bytes(vector.contents).decode(errors="replace")[:_MAX_NAME] if vector else ""
