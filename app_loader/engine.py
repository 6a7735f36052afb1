"""What a keep's guests may use of WebAssembly and WASI: one engine, its modules, and how a module is linked."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Collection, Iterator
from ctypes import byref, c_char_p, c_void_p
from pathlib import Path
from typing import Any

import msgspec

from app_loader.errors import EngineError
from app_loader.wasmtime_binding import (
    EXTERNTYPE_FUNCTION,
    VALTYPE_I32,
    VALUE_TYPES,
    ByteVector,
    Extern,
    HostFunction,
    PointerVector,
    check,
    library,
    peek_bytes,
    take_bytes,
)
from keep_protocol.states import WasmFeature

WASI = "wasi_snapshot_preview1"

# What no keep has: `keep_protocol.webassembly.features` says why.
_NEVER = (
    "wasm_threads",
    "shared_memory",
    "wasm_stack_switching",
    "wasm_custom_page_sizes",
    "wasm_component_model_async",
)
# What most programs do not need, and what would only widen the surface for hostile code.
_ON_REQUEST = {
    WasmFeature.MEMORY64: ("wasm_memory64",),
    WasmFeature.GC: ("wasm_function_references", "wasm_gc"),
    WasmFeature.EXCEPTIONS: ("wasm_exceptions",),
    WasmFeature.RELAXED_SIMD: ("wasm_relaxed_simd",),
    WasmFeature.WIDE_ARITHMETIC: ("wasm_wide_arithmetic",),
}


class Engine:
    """Wasmtime's engine with these features of WebAssembly. Compiling needs those of running, or fewer.

    `multi_memory` is for components: the adapters that wasmtime makes between two of their parts read one memory and
    write another, and without it wasmtime panics (SIGABRT) instead of compiling them. Modules are compiled without, so
    that the limit of one memory is the limit of all.
    """

    def __init__(self, features: Collection[WasmFeature] = (), *, multi_memory: bool = True) -> None:
        wasmtime = library()
        # The C API has no other way to ask for file and line in backtraces; read when a configuration is made.
        os.environ["WASMTIME_BACKTRACE_DETAILS"] = "1"
        configuration = wasmtime.wasm_config_new()
        wasmtime.wasmtime_config_wasm_multi_memory_set(configuration, multi_memory)
        for setting in _NEVER:
            getattr(wasmtime, f"wasmtime_config_{setting}_set")(configuration, False)
        for feature, settings in _ON_REQUEST.items():
            for setting in settings:
                getattr(wasmtime, f"wasmtime_config_{setting}_set")(configuration, feature in features)
        # A parallel compilation leaves threads behind, and a process forked from it hangs.
        wasmtime.wasmtime_config_parallel_compilation_set(configuration, False)
        self.pointer: int = wasmtime.wasm_engine_new_with_config(configuration)
        if not self.pointer:
            raise EngineError("wasmtime refused its configuration")


class Import(msgspec.Struct, frozen=True):
    """Something that a module wants from its host."""

    module: str
    name: str


class Export(msgspec.Struct, frozen=True):
    """Something that a module offers. `function` has the types of a function's parameters and of its results."""

    name: str
    kind: int
    function: tuple[tuple[str, ...], tuple[str, ...]] | None = None


class Module:
    """A compiled module."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    @classmethod
    def compile(cls, engine: Engine, wasm: bytearray) -> Module:
        """Compile a binary module; takes unbounded time and memory. Raises `EngineError`."""
        pointer = c_void_p()
        content = (ctypes.c_char * len(wasm)).from_buffer(wasm)
        check(library().wasmtime_module_new(engine.pointer, content, len(wasm), byref(pointer)))
        return cls(filled(pointer))

    @classmethod
    def map(cls, engine: Engine, path: Path) -> Module:
        """Map what `serialize` gave. Nothing checks that it is intact: compare a digest before."""
        pointer = c_void_p()
        check(library().wasmtime_module_deserialize_file(engine.pointer, bytes(path), byref(pointer)))
        return cls(filled(pointer))

    def serialize(self) -> bytes:
        """The compiled code, for this version of wasmtime and these features only."""
        vector = ByteVector()
        check(library().wasmtime_module_serialize(self.pointer, byref(vector)))
        return take_bytes(vector)

    def close(self) -> None:
        """Free it; what was instantiated from it lives on."""
        library().wasmtime_module_delete(self.pointer)

    def imports(self) -> tuple[Import, ...]:
        """In the module's order."""
        wasmtime = library()
        vector = PointerVector()
        wasmtime.wasmtime_module_imports(self.pointer, byref(vector))
        try:
            return tuple(
                Import(_text(wasmtime.wasm_importtype_module(item)), _text(wasmtime.wasm_importtype_name(item)))
                for item in _items(vector)
            )
        finally:
            wasmtime.wasm_importtype_vec_delete(byref(vector))

    def exports(self) -> tuple[Export, ...]:
        """In the module's order."""
        wasmtime = library()
        vector = PointerVector()
        wasmtime.wasmtime_module_exports(self.pointer, byref(vector))
        try:
            return tuple(_export(item) for item in _items(vector))
        finally:
            wasmtime.wasm_exporttype_vec_delete(byref(vector))


def _export(item: int) -> Export:
    wasmtime = library()
    name = _text(wasmtime.wasm_exporttype_name(item))
    externtype = wasmtime.wasm_exporttype_type(item)
    kind = int(wasmtime.wasm_externtype_kind(externtype))
    if kind != EXTERNTYPE_FUNCTION:
        return Export(name, kind)
    function = wasmtime.wasm_externtype_as_functype_const(externtype)
    parameters, results = wasmtime.wasm_functype_params(function), wasmtime.wasm_functype_results(function)
    return Export(name, kind, (_value_types(parameters.contents), _value_types(results.contents)))


def _value_types(vector: PointerVector) -> tuple[str, ...]:
    return tuple(_value_type(item) for item in _items(vector))


def _value_type(item: int) -> str:
    # Not `wasm_valtype_kind`: for a vector and for most references it ends the process (SIGABRT).
    for number, name in _number_types():
        if library().wasmtime_wasm_valtype_equal(item, number):
            return name
    return "a reference or a vector"


@functools.cache
def _number_types() -> tuple[tuple[int, str], ...]:
    """A `wasm_valtype_t` of each type of numbers, with its name."""
    return tuple((int(library().wasm_valtype_new(kind)), name) for kind, name in VALUE_TYPES.items())


def entry_point(exports: tuple[Export, ...]) -> Export | None:
    """The function that a run calls: the export with the empty name, else `_start`, as wasmtime has it."""
    for name in ("", "_start"):
        for export in exports:
            if export.name == name and export.function is not None:
                parameters, results = export.function
                if not parameters and len(results) <= 1:
                    return export
    return None


class ExitCode:
    """Where `proc_exit` leaves the guest's exit code. A process runs one guest, so one is enough."""

    value: int | None = None


class Linker:
    """WASI preview 1, with a `proc_exit` of our own.

    Wasmtime's refuses codes above 125 ("exit with invalid exit status outside of [0..126)").
    """

    def __init__(self, engine: Engine) -> None:
        wasmtime = library()
        self.engine = engine
        self.exit = ExitCode()
        self.pointer: int = wasmtime.wasmtime_linker_new(engine.pointer)
        check(wasmtime.wasmtime_linker_define_wasi(self.pointer))
        wasmtime.wasmtime_linker_allow_shadowing(self.pointer, True)
        self._proc_exit = HostFunction(self._leave)  # ctypes callbacks live as long as they are referenced
        signature = function_type(1, 0)
        module, name = WASI.encode(), b"proc_exit"
        check(
            wasmtime.wasmtime_linker_define_func(
                self.pointer, module, len(module), name, len(name), signature, self._proc_exit, None, None
            )
        )
        wasmtime.wasm_functype_delete(signature)

    def _leave(self, _env: Any, _caller: Any, arguments: Any, _count: Any, _results: Any, _size: Any) -> int:
        self.exit.value = arguments[0].of.u32
        message = b"proc_exit"
        return int(library().wasmtime_trap_new(message, len(message)))

    def missing(self, module: Module) -> tuple[Import, ...]:
        """All imports that nothing here satisfies by name."""
        wasmtime = library()
        store = wasmtime.wasmtime_store_new(self.engine.pointer, None, None)
        context = wasmtime.wasmtime_store_context(store)
        found = Extern()

        def known(wanted: Import) -> bool:
            space, name = wanted.module.encode(), wanted.name.encode()
            return bool(
                wasmtime.wasmtime_linker_get(self.pointer, context, space, len(space), name, len(name), byref(found))
            )

        try:
            return tuple(wanted for wanted in module.imports() if not known(wanted))
        finally:
            wasmtime.wasmtime_store_delete(store)

    def link(self, module: Module) -> int:
        """The module with its imports resolved, a `wasmtime_instance_pre_t`. Raises `EngineError`."""
        pointer = c_void_p()
        check(library().wasmtime_linker_instantiate_pre(self.pointer, module.pointer, byref(pointer)))
        return filled(pointer)


def function_type(parameters: int, results: int) -> int:
    """A `wasm_functype_t` of so many i32; the caller deletes it."""
    return int(library().wasm_functype_new(byref(_integers(parameters)), byref(_integers(results))))


def _integers(count: int) -> PointerVector:
    wasmtime = library()
    vector = PointerVector()
    if count:
        items = (c_void_p * count)(*(wasmtime.wasm_valtype_new(VALTYPE_I32) for _ in range(count)))
        wasmtime.wasm_valtype_vec_new(byref(vector), count, items)
    return vector


def filled(pointer: c_void_p) -> int:
    """What a call has put into `pointer`. Raises `EngineError`."""
    if pointer.value is None:
        raise EngineError("wasmtime returned neither a result nor an error")
    return pointer.value


def _items(vector: PointerVector) -> Iterator[int]:
    for index in range(vector.size):
        yield vector.data[index]


def _text(name: Any) -> str:
    return peek_bytes(name.contents).decode(errors="replace")


def strings(values: list[str]) -> ctypes.Array[c_char_p]:
    """A C array of UTF-8 strings."""
    return (c_char_p * len(values))(*(value.encode() for value in values))
