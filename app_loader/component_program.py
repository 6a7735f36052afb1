"""A component, linked with WASI 0.2: run as a command, or called function by function."""

from __future__ import annotations

import ctypes
import resource
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

from app_loader.component_binding import (
    ComponentFunction,
    ComponentInstance,
    ComponentValue,
    HostComponentFunction,
    component_library,
)
from app_loader.component_exports import SEPARATOR, ComponentTypes
from app_loader.component_types import (
    ComponentFunctionType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    TupleType,
    UnsupportedType,
    VariantType,
    WitType,
)
from app_loader.component_values import Lowering, lift
from app_loader.engine import Engine, ExitCode, filled
from app_loader.errors import CallFailedError, EngineError
from app_loader.module_program import check_count, not_found
from app_loader.program import Held
from app_loader.runner_messages import Report
from app_loader.traps import exited, failure
from app_loader.wasmtime_binding import ByteVector, check, take_bytes
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import MiB
from keep_protocol.webassembly import wasi

_EXIT = "wasi:cli/exit@0.2.12"
"""Under the version that wasmtime 50 defines it; imports of every 0.2.x find it."""
_NEARLY_FULL = 0.875
_JUDGED_FROM = 32 * MiB
"""Smaller limits drown in what a process needs besides its guest."""


class Component:
    """A compiled component."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    @classmethod
    def compile(cls, engine: Engine, wasm: bytearray) -> Component:
        """Compile a binary component; takes unbounded time and memory. Raises `EngineError`."""
        pointer = c_void_p()
        content = (ctypes.c_char * len(wasm)).from_buffer(wasm)
        check(component_library().wasmtime_component_new(engine.pointer, content, len(wasm), byref(pointer)))
        return cls(filled(pointer))

    @classmethod
    def map(cls, engine: Engine, path: Path) -> Component:
        """Map what `serialize` gave. Nothing checks that it is intact: compare a digest before."""
        pointer = c_void_p()
        check(component_library().wasmtime_component_deserialize_file(engine.pointer, bytes(path), byref(pointer)))
        return cls(filled(pointer))

    def serialize(self) -> bytes:
        """The compiled code, for this version of wasmtime and these features only."""
        vector = ByteVector()
        check(component_library().wasmtime_component_serialize(self.pointer, byref(vector)))
        return take_bytes(vector)


class ComponentLinker:
    """WASI 0.2, with a `wasi:cli/exit` of our own: wasmtime's has no `exit-with-code`."""

    def __init__(self, engine: Engine) -> None:
        wasmtime = component_library()
        self.exit = ExitCode()
        self.pointer: int = wasmtime.wasmtime_component_linker_new(engine.pointer)
        check(wasmtime.wasmtime_component_linker_add_wasip2(self.pointer))
        wasmtime.wasmtime_component_linker_allow_shadowing(self.pointer, True)
        root = wasmtime.wasmtime_component_linker_root(self.pointer)
        instance = c_void_p()
        name = _EXIT.encode()
        check(wasmtime.wasmtime_component_linker_instance_add_instance(root, name, len(name), byref(instance)))
        # ctypes callbacks live as long as they are referenced.
        self._functions = (HostComponentFunction(self._leave), HostComponentFunction(self._leave_with_code))
        for function, exported in zip((b"exit", b"exit-with-code"), self._functions, strict=True):
            check(
                wasmtime.wasmtime_component_linker_instance_add_func(
                    instance, function, len(function), exported, None, None
                )
            )
        wasmtime.wasmtime_component_linker_instance_delete(instance)
        wasmtime.wasmtime_component_linker_instance_delete(root)

    def _leave(self, _data: Any, _context: Any, _type: Any, arguments: Any, *_: Any) -> int:
        # WASI 0.2 says only whether the program succeeded.
        self.exit.value = 0 if arguments[0].of.result.is_ok else 1
        return int(component_library().wasmtime_error_new(b"exit"))

    def _leave_with_code(self, _data: Any, _context: Any, _type: Any, arguments: Any, *_: Any) -> int:
        self.exit.value = arguments[0].of.u8
        return int(component_library().wasmtime_error_new(b"exit"))


class ComponentProgram:
    """A component that is ready to be instantiated: what the runner keeps and its children run."""

    max_instances = 64
    """The core modules of one component, its adapters and libraries among them."""
    max_memories = 16

    def __init__(self, engine: Engine, linker: ComponentLinker, component: Component) -> None:
        self.engine = engine
        self._linker = linker
        self._component = component
        self._types = ComponentTypes(engine.pointer, component.pointer)
        self._known: dict[str, ComponentFunctionType] = {}
        self._indices: dict[str, int] = {}
        """Of functions that were called; each is allocated, and kept for the next call."""
        runs = (name for name in self._types.names() if wasi.split_version(name)[0] == wasi.COMMAND)
        self._entry = next(runs, None)

    def close(self) -> None:
        """Free it."""
        self._types.close()
        component_library().wasmtime_component_delete(self._component.pointer)

    def run(self, context: int, memory: int) -> Report:
        """Run it as a command. Raises `EngineError`."""
        if self._entry is None:
            raise EngineError(f"the component does not export {wasi.COMMAND}")
        before = peak_memory()
        result = ComponentValue()
        report = self._invoke(context, f"{self._entry}{SEPARATOR}run", None, result, memory, before, Held())
        return report or exited(0 if result.of.result.is_ok else 1, full=_nearly_full(before, memory))

    def call(self, context: int, function: str, arguments: list[Any], memory: int, held: Held) -> Any:
        """See `Program`."""
        kind = self._function_type(function)
        signature = (f"{name}: {parameter}" for name, parameter in kind.parameters)
        check_count(function, len(kind.parameters), arguments, signature)
        lowering = Lowering()
        values = (ComponentValue * len(arguments))()
        for index, ((_, parameter), argument) in enumerate(zip(kind.parameters, arguments, strict=True)):
            lowering.value(values[index], parameter, argument, f"$.arguments[{index}]")
        result = None if kind.result is None else ComponentValue()
        if report := self._invoke(context, function, values, result, memory, peak_memory(), held):
            raise CallFailedError(report)
        if result is None or kind.result is None:
            return None
        try:
            return lift(result, kind.result)
        finally:
            component_library().wasmtime_component_val_delete(byref(result))

    def _function_type(self, function: str) -> ComponentFunctionType:
        kind = self._known.get(function)
        if kind is None:
            try:
                kind = self._types.function(function)
            except EngineError as error:
                raise RefusalError(ErrorCode.FUNCTION_UNSUPPORTED, f"{function} has {error}") from None
            if kind is None:
                existing = [name for name, item in self._types.exports() if item.startswith("func")]
                raise not_found(function, existing)
            for named in (*(parameter for _, parameter in kind.parameters), kind.result):
                if named is not None and (unsupported := _unsupported(named)):
                    detail = f"{function} takes or returns a {unsupported}, which has no form in JSON"
                    raise RefusalError(ErrorCode.FUNCTION_UNSUPPORTED, detail)
            self._known[function] = kind
        return kind

    def _invoke(
        self,
        context: int,
        function: str,
        values: ctypes.Array[ComponentValue] | None,
        result: ComponentValue | None,
        memory: int,
        before: int,
        held: Held,
    ) -> Report | None:
        """How a function failed, if it did. `before` is the peak of memory until then."""
        wasmtime = component_library()
        self._linker.exit.value = None
        error = None
        if held.instance is None:
            held.instance = ComponentInstance()
            error = wasmtime.wasmtime_component_linker_instantiate(
                self._linker.pointer, context, self._component.pointer, byref(held.instance)
            )
        if not error:
            found = ComponentFunction()
            if not wasmtime.wasmtime_component_instance_get_func(
                byref(held.instance), context, self._index(function), byref(found)
            ):
                raise EngineError(f"the component lost its export {function!r}")
            error = wasmtime.wasmtime_component_func_call(
                byref(found),
                context,
                values,
                0 if values is None else len(values),
                None if result is None else byref(result),
                0 if result is None else 1,
            )
        if not error:
            return None
        return failure(error, c_void_p(), self._linker.exit.value, full=_nearly_full(before, memory))

    def _index(self, function: str) -> int:
        """The export index of a function. Raises `EngineError`."""
        if known := self._indices.get(function):
            return known
        interface, _, name = function.rpartition(SEPARATOR)
        index: int | None = None
        for part in filter(None, (interface, name)):
            encoded = part.encode()
            index = component_library().wasmtime_component_get_export_index(
                self._component.pointer, index, encoded, len(encoded)
            )
            if not index:
                raise EngineError(f"the component lost its export {function!r}")
        if index is None:
            raise EngineError("an export without a name")
        self._indices[function] = index
        return index


def peak_memory() -> int:
    """Bytes of memory that this process has used at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _nearly_full(before: int, memory: int) -> bool:
    """Whether the guest touched nearly as much memory as it may have.

    A component exports no memory whose size could be asked for.
    """
    return memory >= _JUDGED_FROM and peak_memory() - before >= memory * _NEARLY_FULL


def _unsupported(kind: WitType) -> str | None:
    """What in a type has no form in JSON, if anything."""
    match kind:
        case UnsupportedType(name):
            return name
        case ListType(inner) | OptionType(inner):
            return _unsupported(inner)
        case RecordType(named) | VariantType(named):
            parts = tuple(part for _, part in named)
        case TupleType(items):
            parts = items
        case ResultType(ok, error):
            parts = (ok, error)
        case _:
            parts = ()
    return next(filter(None, (_unsupported(part) for part in parts if part is not None)), None)
