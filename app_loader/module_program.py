"""A core module, linked with WASI preview 1: run as a command, or called function by function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ctypes import Array, byref, c_void_p
from typing import TYPE_CHECKING, Any, TypeAlias

from app_loader.engine import Linker, Module, entry_point
from app_loader.errors import CallFailedError, EngineError
from app_loader.json_numbers import integer, integer_as_json, real, real_as_json
from app_loader.program import Held
from app_loader.runner_messages import Report
from app_loader.traps import failure
from app_loader.wasmtime_binding import (
    EXTERN_FUNCTION,
    EXTERNTYPE_MEMORY,
    VALUE_TYPES,
    Extern,
    Instance,
    Value,
    library,
)
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import ExitReason
from keep_protocol.webassembly.start_section import START_EXPORT

if TYPE_CHECKING:
    # Only runs with sockets pay for it.
    from app_loader.preview1.descriptor_table import DescriptorTable
    from app_loader.preview1.linking import Shim

    Prepare: TypeAlias = Callable[[DescriptorTable], None]

_PAGE = 65536
_MAX_SIGNATURE = 500
"""Characters of it in a message."""
_INITIALIZE = "_initialize"
_NUMBERS = {name: kind for kind, name in VALUE_TYPES.items()}


class ModuleProgram:
    """A module that is ready to be instantiated: what the runner keeps and its children run."""

    max_instances = 1
    max_memories = 1

    def __init__(self, linker: Linker, module: Module) -> None:
        exports = module.exports()
        self.engine = linker.engine
        self.linker = linker
        self._module = module
        self._exit = linker.exit
        self._entry = entry_point(exports)
        self._memories = tuple(export.name for export in exports if export.kind == EXTERNTYPE_MEMORY)
        self._functions = {export.name: export.function for export in exports if export.function is not None}
        self._has_start = self._functions.pop(START_EXPORT, None) is not None
        self._instance_pre = linker.link(module)

    def close(self) -> None:
        """Free it."""
        self._module.close()
        library().wasmtime_instance_pre_delete(self._instance_pre)

    def run(self, context: int, memory: int, shim: Shim | None = None, prepare: Prepare | None = None) -> Report:
        """Run it as a command. Raises `EngineError`.

        With a `shim` it is linked with that, and `prepare` fills the table of descriptors before anything is called.
        """
        if self._entry is None or self._entry.function is None:
            raise EngineError("the module exports no function `_start` without parameters")
        instance = Instance()
        report = self._instantiate(context, instance) if shim is None else self._link(context, instance)
        if report is None and shim is not None and prepare is not None and (table := shim.join(instance)) is not None:
            prepare(table)
        if report is None:
            report = self._call_start(context, instance, memory)
        if report is not None:
            return report
        results = (Value * 1)()
        count = len(self._entry.function[1])
        report = self._invoke(context, instance, self._entry.name, None, results, count, memory)
        return report or Report(ExitReason.CODE, code=0)

    def call(self, context: int, function: str, arguments: list[Any], memory: int, held: Held) -> Any:
        """See `Program`."""
        signature = self._functions.get(function)
        if signature is None:
            raise not_found(function, list(self._functions))
        taken, returned = signature
        _check_supported(function, (*taken, *returned))
        check_count(function, len(taken), arguments, taken)
        values = (Value * len(taken))()
        for index, (kind, argument) in enumerate(zip(taken, arguments, strict=True)):
            _lower(values[index], kind, argument, f"$.arguments[{index}]")
        results = (Value * max(1, len(returned)))()
        report = None
        if held.instance is None:
            held.instance = instance = Instance()
            report = self._instantiate(context, instance) or self._call_start(context, instance, memory)
            if report is None and function != _INITIALIZE and self._functions.get(_INITIALIZE) == ((), ()):
                report = self._invoke(context, instance, _INITIALIZE, None, results, 0, memory)
        if report is None:
            report = self._invoke(context, held.instance, function, values, results, len(returned), memory)
        if report is not None:
            raise CallFailedError(report)
        lifted = [_lift(results[index]) for index in range(len(returned))]
        return lifted if len(lifted) > 1 else lifted[0] if lifted else None

    def _instantiate(self, context: int, instance: Instance) -> Report | None:
        """How that failed, if it did."""
        trap = c_void_p()
        self._exit.value = None
        error = library().wasmtime_instance_pre_instantiate(self._instance_pre, context, byref(instance), byref(trap))
        return failure(error, trap, self._exit.value, full=False) if error or trap else None

    def _link(self, context: int, instance: Instance) -> Report | None:
        """Instantiate with what the linker has now, which a shim may have changed. How that failed, if it did."""
        trap = c_void_p()
        self._exit.value = None
        error = library().wasmtime_linker_instantiate(
            self.linker.pointer, context, self._module.pointer, byref(instance), byref(trap)
        )
        return failure(error, trap, self._exit.value, full=False) if error or trap else None

    def _call_start(self, context: int, instance: Instance, memory: int) -> Report | None:
        """What WebAssembly does at the end of instantiation; the compiler has made it an export (`start_section`)."""
        if not self._has_start:
            return None
        return self._invoke(context, instance, START_EXPORT, None, (Value * 1)(), 0, memory)

    def _invoke(
        self,
        context: int,
        instance: Instance,
        name: str,
        values: Array[Value] | None,
        results: Array[Value],
        count: int,
        memory: int,
    ) -> Report | None:
        """How a function failed, if it did. `memory` is the limit in bytes."""
        wasmtime = library()
        found = Extern()
        encoded = name.encode()
        exists = wasmtime.wasmtime_instance_export_get(context, byref(instance), encoded, len(encoded), byref(found))
        if not exists or found.kind != EXTERN_FUNCTION:
            raise EngineError(f"the module lost its export {name!r}")
        trap = c_void_p()
        error = wasmtime.wasmtime_func_call(
            context,
            byref(found, Extern.item.offset),
            values,
            len(values) if values is not None else 0,
            results,
            count,
            byref(trap),
        )
        if not error and not trap:
            return None
        full = memory - self._memory_size(context, instance) <= _PAGE
        return failure(error, trap, self._exit.value, full=full)

    def _memory_size(self, context: int, instance: Instance) -> int:
        """Bytes of the instance's memory, as far as it exports it."""
        wasmtime = library()
        memory = Extern()
        size = 0
        for name in self._memories:
            encoded = name.encode()
            if wasmtime.wasmtime_instance_export_get(context, byref(instance), encoded, len(encoded), byref(memory)):
                size += wasmtime.wasmtime_memory_data_size(context, byref(memory, Extern.item.offset))
        return size


def not_found(function: str, existing: list[str]) -> RefusalError:
    """The refusal of a function that a workload does not export."""
    shown = ", ".join(name[:100] for name in existing[:20]) or "no functions"
    more = f" and {len(existing) - 20} more" if len(existing) > 20 else ""
    detail = f"the workload exports no function {function[:100]!r}; there are {shown}{more}"
    return RefusalError(ErrorCode.FUNCTION_NOT_FOUND, detail)


def check_count(function: str, wanted: int, arguments: list[Any], signature: Iterable[str]) -> None:
    """Raise `RefusalError` unless there are as many arguments as there are parameters in `signature`."""
    if len(arguments) != wanted:
        missing = len(arguments) < wanted
        raise RefusalError(
            ErrorCode.FIELD_INVALID,
            f"{function} takes {wanted} arguments ({', '.join(signature)[:_MAX_SIGNATURE]}), got {len(arguments)}",
            field=f"$.arguments[{len(arguments) if missing else wanted}]",
        )


def _check_supported(function: str, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if kind not in _NUMBERS:
            raise RefusalError(
                ErrorCode.FUNCTION_UNSUPPORTED, f"{function} takes or returns {kind}, which has no form in JSON"
            )


def _lower(value: Value, kind: str, argument: Any, where: str) -> None:
    value.kind = _NUMBERS[kind]
    match kind:
        case "i32":
            value.of.i32 = integer(argument, kind, where)
        case "i64":
            value.of.i64 = integer(argument, kind, where)
        case "f32":
            value.of.f32 = real(argument, kind, where)
        case _:
            value.of.f64 = real(argument, kind, where)


def _lift(value: Value) -> int | float | str:
    match VALUE_TYPES[value.kind]:
        case "i32":
            return int(value.of.i32)
        case "i64":
            return integer_as_json(value.of.i64)
        case "f32":
            return real_as_json(value.of.f32)
        case _:
            return real_as_json(value.of.f64)
