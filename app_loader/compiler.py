"""What a compiling process does: read a module, check it, compile it, write it down, report, end.

A compilation cannot be cancelled, and 14 KB of hostile WebAssembly cost seconds and gigabytes, so it happens in a
process of its own under limits of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import stat

import msgspec

from app_loader.engine import WASI, Engine, Linker, Module, entry_point
from app_loader.errors import EngineError
from app_loader.runner_messages import Compile, CompileReport

_BLOCK = 1024 * 1024
_MAX_NAMED = 20
_MAX_NAME = 100


def compile_module(order: Compile, descriptors: list[int]) -> None:
    """Be the process of one compilation, up to its report; the caller ends the process.

    Hitting the limit of processor time ends it by SIGXCPU; of memory by SIGABRT, where wasmtime allocates.
    """
    source, target, report_pipe = descriptors
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_seconds, order.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (order.address_space, order.address_space))
    try:
        report = _compile(source, target)
    except MemoryError:
        report = CompileReport(exhausted=f"memory ({order.address_space} bytes)")
    except OSError as error:
        report = CompileReport(exhausted=f"the disk: {error.strerror}")
    with contextlib.suppress(BrokenPipeError):
        os.write(report_pipe, msgspec.json.encode(report))


def _compile(source: int, target: int) -> CompileReport:
    wasm = _read(source)
    digest = hashlib.sha256(wasm).hexdigest()
    # The upload is acknowledged when this is done, so it has to be on disk by then.
    os.fsync(source)
    engine = Engine()
    try:
        module = Module.compile(engine, wasm)
    except EngineError as error:
        return CompileReport(source=digest, error=first_line(str(error)))
    if invalid := _unsuitable(engine, module):
        return CompileReport(source=digest, invalid=invalid)
    compiled = module.serialize()
    _write(target, compiled)
    os.fsync(target)
    return CompileReport(source=digest, digest=hashlib.sha256(compiled).hexdigest())


def first_line(message: str) -> str:
    """Wasmtime's error in one line: what failed and, where it says so, why."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return ": ".join(line for line in (lines[:1] + lines[-1:] if len(lines) > 1 else lines))[:2048]


def _unsuitable(engine: Engine, module: Module) -> str | None:
    """Why a module that compiles is no program for a keep, or None."""
    linker = Linker(engine)
    if missing := linker.missing(module):
        named = ", ".join(f"{wanted.module}.{wanted.name}"[:_MAX_NAME] for wanted in missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        return f"a keep does not have these imports: {named}{more}; it offers WASI preview 1 as `{WASI}`"
    try:
        linker.link(module)
    except EngineError as error:
        return f"its imports do not fit WASI preview 1: {first_line(str(error))}"
    exports = module.exports()
    if entry_point(exports) is None:
        names = ", ".join(repr(export.name)[:_MAX_NAME] for export in exports[:_MAX_NAMED]) or "nothing"
        return (
            "a command exports a function `_start` without parameters; this module exports "
            f"{names}. Build it as a WASI command, not as a library or reactor"
        )
    return None


def _read(source: int) -> bytearray:
    # One buffer of the file's size, filled in place: the address space is limited, and copies count.
    content = bytearray(os.fstat(source).st_size)
    view = memoryview(content)
    filled = 0
    while filled < len(content):
        count = os.preadv(source, [view[filled : filled + _BLOCK]], filled)
        if count == 0:
            break
        filled += count
    view.release()
    del content[filled:]
    return content


def _write(target: int, content: bytes) -> None:
    if not stat.S_ISREG(os.fstat(target).st_mode):
        raise EngineError("the target is no file")
    view = memoryview(content)
    while view:
        view = view[os.write(target, view) :]
