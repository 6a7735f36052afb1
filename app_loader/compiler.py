"""What a compiling process does: read a module, check it, compile it, write it down, report, end.

A compilation cannot be cancelled, and 14 KB of hostile WebAssembly cost seconds and gigabytes, so it happens in a
process of its own under limits of its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import resource
import stat

import msgspec

from app_loader.engine import Engine, Linker, Module
from app_loader.errors import EngineError
from app_loader.feature_words import feature_wanted
from app_loader.runner_messages import Compile, CompileReport
from keep_protocol.keep_api import WorkloadExport
from keep_protocol.spec import MiB
from keep_protocol.states import WasmFeature
from keep_protocol.webassembly import header
from keep_protocol.webassembly.description import describe
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.features import IMPOSSIBLE, impossible_features
from keep_protocol.webassembly.recognition import recognize
from keep_protocol.webassembly.start_section import export_start

_BLOCK = 1024 * 1024
_MAX_EXPORTS = 100_000


def compile_module(order: Compile, descriptors: list[int]) -> None:
    """Be the process of one compilation, up to its report; the caller ends the process.

    Hitting the limit of processor time ends it by SIGXCPU; of memory by SIGABRT, where wasmtime allocates,
    with a word about it on standard error.
    """
    source, target, report_file, stderr = descriptors
    os.dup2(stderr, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_seconds, order.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (order.address_space, order.address_space))
    try:
        report = _compile(source, target, frozenset(order.features))
    except MemoryError:
        report = CompileReport(exhausted=f"{order.address_space // MiB} MiB of memory")
    except OSError as error:
        report = CompileReport(exhausted=f"the disk: {error.strerror}")
    _write_all(report_file, msgspec.json.encode(report))


def _compile(source: int, target: int, allowed: frozenset[WasmFeature]) -> CompileReport:
    wasm = _read(source)
    digest = hashlib.sha256(wasm).hexdigest()
    # The upload is acknowledged when this is done, so it has to be on disk by then.
    os.fsync(source)
    try:
        recognition = recognize(wasm)
    except MalformedError as error:
        # Wasmtime says better what is wrong.
        recognition, malformed = None, str(error)
    if recognition is not None and recognition.refusals:
        return CompileReport(source=digest, invalid="; ".join(recognition.refusals))
    needed = set() if recognition is None else set(recognition.features)
    try:
        compiled, exports = _compile_with(needed, allowed, wasm)
    except _FeatureOffError:
        return CompileReport(source=digest, needed=tuple(sorted(needed)))
    except _UnsuitableError as error:
        return CompileReport(source=digest, invalid=str(error))
    except EngineError as error:
        if any(refusal in str(error) for refusal in _OUT_OF_MEMORY):
            raise MemoryError from None
        return CompileReport(source=digest, error=first_line(str(error)))
    if recognition is None:
        return CompileReport(source=digest, error=malformed)
    _write(target, compiled)
    os.fsync(target)
    description = msgspec.structs.replace(describe(recognition, exports), features=tuple(sorted(needed)))
    return CompileReport(source=digest, digest=hashlib.sha256(compiled).hexdigest(), description=description)


def _compile_with(
    needed: set[WasmFeature], allowed: frozenset[WasmFeature], wasm: bytearray
) -> tuple[bytes, list[WorkloadExport] | None]:
    """Compile with the features that are needed, to which those are added that single instructions are found to need.

    So compiled code has the features that its source needs, whatever else is configured, and can be kept.
    """
    is_component = header.is_component(wasm)
    while needed <= allowed:
        engine = Engine(needed, multi_memory=is_component)
        try:
            return (_compile_component if is_component else _compile_module)(engine, wasm)
        except EngineError as error:
            name = feature_wanted(str(error))
            if name in IMPOSSIBLE:
                raise _UnsuitableError("; ".join(impossible_features([name]))) from None
            if name is None or name in needed:
                raise
            needed.add(WasmFeature(name))
    raise _FeatureOffError


_OUT_OF_MEMORY = tuple(f"(os error {number})" for number in (errno.ENOMEM, errno.EAGAIN))
"""In wasmtime's words for a mapping that the limit refuses, and for a thread whose stack it refuses: pthread_create(3)
says EAGAIN. A smaller allocation makes it abort instead."""


class _UnsuitableError(Exception):
    """It is no program for a keep."""


class _FeatureOffError(Exception):
    """It needs a feature that is off."""


def _compile_module(engine: Engine, wasm: bytearray) -> tuple[bytes, None]:
    with contextlib.suppress(MalformedError):  # of which wasmtime says better what is wrong
        wasm = export_start(wasm)
    module = Module.compile(engine, wasm)
    try:
        Linker(engine).link(module)
    except EngineError as error:
        raise _UnsuitableError(f"its imports do not fit WASI preview 1: {first_line(str(error))}") from None
    return module.serialize(), None


def _compile_component(engine: Engine, wasm: bytearray) -> tuple[bytes, list[WorkloadExport]]:
    """Also the functions that its instances export, which the bytes alone tell only with effort."""
    from app_loader.component_exports import ComponentTypes, missing_entry
    from app_loader.component_program import Component

    component = Component.compile(engine, wasm)
    types = ComponentTypes(engine.pointer, component.pointer)
    if missing := missing_entry(types):
        raise _UnsuitableError(missing)
    exports = [WorkloadExport(name, kind) for name, kind in itertools.islice(types.exports(), _MAX_EXPORTS)]
    return component.serialize(), exports


def first_line(message: str) -> str:
    """Wasmtime's error in one line: what failed and, where it says so, why."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return ": ".join(line for line in (lines[:1] + lines[-1:] if len(lines) > 1 else lines))[:2048]


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
    _write_all(target, content)


def _write_all(target: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(target, view) :]
