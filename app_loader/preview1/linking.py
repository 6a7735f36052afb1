"""Puts the shim between a guest and WASI: five instances in one store, in the order that `shim_text` explains."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from ctypes import byref, c_int32, c_int64, c_uint32, c_void_p
from typing import Any, Final

from app_loader.engine import WASI, Engine, Linker, Module, function_type
from app_loader.errors import EngineError
from app_loader.preview1 import shim_text
from app_loader.preview1.descriptor_table import DescriptorTable, Hold
from app_loader.preview1.functions import Functions
from app_loader.preview1.guest_memory import GuestMemory
from app_loader.wasmtime_binding import (
    EXTERN_MEMORY,
    RAW_VALUE,
    ByteVector,
    Extern,
    Instance,
    UncheckedHostFunction,
    check,
    library,
    take_bytes,
    take_error,
)

EXTRA_INSTANCES: Final = 3
"""SHIM, HOLD and ADAPTER, beside the guest."""
EXTRA_MEMORIES: Final = 1
"""HOLD's."""

_WORDS: Final = RAW_VALUE // 4
_OF_HOLD: Final = ("path_open", "fd_close", "fd_renumber", "fd_fdstat_get", "clock_time_get")
"""What HOLD imports, in its order."""


class ShimModules:
    """The three modules, compiled once for an engine: some 10 ms."""

    def __init__(self, engine: Engine) -> None:
        self.shim = _compiled(engine, shim_text.shim())
        self.hold = _compiled(engine, shim_text.hold())
        self.adapter = _compiled(engine, shim_text.adapter())


class Shim:
    """One store's: made before the guest, joined with it when its memory is there."""

    def __init__(self, modules: ShimModules, linker: Linker, context: int) -> None:
        self._modules = modules
        self._context = context
        # Before they are shadowed.
        self._native = {name: _found(linker, context, name) for name in (*shim_text.PARAMETERS, *_OF_HOLD)}
        self._shim = _instance(context, modules.shim, ())
        for name in shim_text.PARAMETERS:
            _define(linker, context, name, _export(context, self._shim, name))
        self._callbacks: list[Any] = []
        """Ctypes callbacks live as long as they are referenced."""
        self.table: DescriptorTable | None = None

    def join(self, guest: Instance) -> DescriptorTable | None:
        """Let the guest's calls arrive; None if it exports no memory, so that none of them could work."""
        memory = Extern()
        name = b"memory"
        found = library().wasmtime_instance_export_get(self._context, byref(guest), name, len(name), byref(memory))
        if not found or memory.kind != EXTERN_MEMORY:
            return None
        hold = _instance(self._context, self._modules.hold, [self._native[name] for name in _OF_HOLD])
        table = self.table = DescriptorTable(self._hold(hold))
        functions = Functions(table, GuestMemory(self._context, memory))
        _instance(
            self._context,
            self._modules.adapter,
            [
                *(self._native[name] for name in shim_text.PARAMETERS),
                *(self._host(name, count, functions.answer(name)) for name, count in shim_text.PARAMETERS.items()),
                _export(self._context, hold, "marked"),
                memory,
                _export(self._context, self._shim, "table"),
            ],
        )
        return table

    def _hold(self, hold: Instance) -> Hold:
        def integer(name: str) -> Callable[..., int]:
            return _function(self._context, hold, name, c_int32)

        return Hold(
            marked=integer("marked"),
            mark=integer("mark"),
            reserve=integer("reserve"),
            close=integer("close"),
            renumber=integer("renumber"),
            valid=integer("valid"),
            now=_function(self._context, hold, "now", c_int64),
        )

    def _host(self, name: str, count: int, answer: Callable[..., int]) -> Extern:
        """A function of the host. Through `wasmtime_func_new_unchecked` a call costs a third of a checked one."""
        words = c_uint32 * (_WORDS * count)

        def call(_env: Any, _caller: Any, values: int, _count: int) -> int | None:
            try:
                raw = words.from_address(values)
                raw[0] = answer(*raw[0 : _WORDS * count : _WORDS])
            # A Python error must not pass through wasm frames: ctypes would print it and return rubbish.
            except BaseException as error:
                message = f"the keep failed to answer {name}: {error!r}".encode()
                return int(library().wasmtime_trap_new(message, len(message)))
            return None

        callback = UncheckedHostFunction(call)
        self._callbacks.append(callback)
        made = Extern()
        signature = function_type(count, 1)
        library().wasmtime_func_new_unchecked(
            self._context, signature, callback, None, None, byref(made, Extern.item.offset)
        )
        library().wasm_functype_delete(signature)
        return made


def _compiled(engine: Engine, text: str) -> Module:
    vector = ByteVector()
    encoded = text.encode()
    check(library().wasmtime_wat2wasm(encoded, len(encoded), byref(vector)))
    return Module.compile(engine, bytearray(take_bytes(vector)))


def _found(linker: Linker, context: int, name: str) -> Extern:
    found = Extern()
    space, encoded = WASI.encode(), name.encode()
    if not library().wasmtime_linker_get(
        linker.pointer, context, space, len(space), encoded, len(encoded), byref(found)
    ):
        raise EngineError(f"wasmtime has no {name}")
    return found


def _define(linker: Linker, context: int, name: str, item: Extern) -> None:
    space, encoded = WASI.encode(), name.encode()
    check(
        library().wasmtime_linker_define(linker.pointer, context, space, len(space), encoded, len(encoded), byref(item))
    )


def _instance(context: int, module: Module, imports: Iterable[Extern]) -> Instance:
    given = list(imports)
    items = (Extern * len(given))(*given)
    instance, trap = Instance(), c_void_p()
    check(library().wasmtime_instance_new(context, module.pointer, items, len(given), byref(instance), byref(trap)))
    if trap:
        raise EngineError("a module of the shim trapped")
    return instance


def _export(context: int, instance: Instance, name: str) -> Extern:
    found = Extern()
    encoded = name.encode()
    if not library().wasmtime_instance_export_get(context, byref(instance), encoded, len(encoded), byref(found)):
        raise EngineError(f"a module of the shim lost its export {name!r}")
    return found


def _function(context: int, instance: Instance, name: str, result: Any) -> Callable[..., int]:
    """An exported function of at most two i32."""
    found = _export(context, instance, name)
    raw = ctypes.create_string_buffer(2 * RAW_VALUE)
    address = ctypes.addressof(raw)
    first, second = c_uint32.from_address(address), c_uint32.from_address(address + RAW_VALUE)
    returned = result.from_address(address)

    def call(*arguments: int) -> int:
        # Kept alive by this closure: the numbers above are views of it.
        assert raw
        trap = c_void_p()
        first.value, second.value = (*arguments, 0, 0)[:2]
        error = library().wasmtime_func_call_unchecked(
            context, byref(found, Extern.item.offset), address, 2, byref(trap)
        )
        if error or trap:
            raise EngineError(take_error(error) if error else f"{name} of the shim trapped")
        return int(returned.value)

    return call
