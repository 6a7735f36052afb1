"""Reads from wasmtime what a component exports, and of which types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import byref, c_bool, c_size_t, c_void_p, string_at

from app_loader.component_binding import (
    ITEM_FUNCTION,
    ITEM_INSTANCE,
    ITEM_KINDS,
    Item,
    ValueType,
    component_library,
)
from app_loader.component_types import (
    ComponentFunctionType,
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResultType,
    TupleType,
    UnsupportedType,
    VariantType,
    WitType,
)
from app_loader.errors import EngineError
from keep_protocol.webassembly import wasi

MAX_DEPTH = 64
MAX_PARTS = 10_000
"""Of one function's type. Each level of a type may name the level below twice, so it grows with a power of two."""

SEPARATOR = "#"
"""Between an exported interface and a function of it, as in the names of core functions."""

_PRIMITIVES = ("bool", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "f32", "f64", "char", "string")
"""By `wasmtime_component_valtype_kind_t`."""
_UNSUPPORTED = {21: "resource", 22: "borrowed resource", 23: "future", 24: "stream", 25: "error-context"}


class ComponentTypes:
    """The exports of a component and their types. Close it."""

    def __init__(self, engine: int, component: int) -> None:
        self._engine = engine
        self._type = component_library().wasmtime_component_type(component)

    def close(self) -> None:
        """Free it."""
        component_library().wasmtime_component_type_delete(self._type)

    def exports(self) -> Iterator[tuple[str, str]]:
        """Names and types as text; functions of exported interfaces as `INTERFACE#FUNCTION`."""
        for name, item in _items("wasmtime_component_type", self._type, self._engine):
            if item.kind != ITEM_INSTANCE:
                yield name, _text(item)
                continue
            for inner, inner_item in _items("wasmtime_component_instance_type", item.of, self._engine):
                yield f"{name}{SEPARATOR}{inner}", _text(inner_item)

    def names(self) -> Iterator[str]:
        """Names of the exports at the outermost level."""
        return (name for name, _ in _items("wasmtime_component_type", self._type, self._engine))

    def function(self, name: str) -> ComponentFunctionType | None:
        """The type of the exported function with this name, or None. Raises `EngineError`."""
        interface, separator, inner = name.rpartition(SEPARATOR)
        if not separator:
            return self._function_of("wasmtime_component_type", self._type, name)
        item = self._get("wasmtime_component_type", self._type, interface)
        if item is None:
            return None
        try:
            if item.kind != ITEM_INSTANCE:
                return None
            return self._function_of("wasmtime_component_instance_type", item.of, inner)
        finally:
            component_library().wasmtime_component_item_delete(byref(item))

    def _function_of(self, prefix: str, owner: int, name: str) -> ComponentFunctionType | None:
        item = self._get(prefix, owner, name)
        if item is None:
            return None
        try:
            return _TypeReader().function_type(item.of) if item.kind == ITEM_FUNCTION else None
        finally:
            component_library().wasmtime_component_item_delete(byref(item))

    def _get(self, prefix: str, owner: int, name: str) -> Item | None:
        wanted = name.encode()
        extern = c_void_p()
        get = getattr(component_library(), f"{prefix}_export_get")
        if not get(owner, self._engine, wanted, len(wanted), byref(extern)):
            return None
        return _take_item(extern)


def missing_entry(types: ComponentTypes) -> str | None:
    """Why a component cannot be the command, or answer the requests, that the name of an export promises, if so."""
    found = {wasi.split_version(name)[0]: name for name in types.names()}
    owned = UnsupportedType("resource")
    wanted: tuple[tuple[WitType, ...], WitType | None]
    # A component that is both is a command.
    if wasi.COMMAND in found:
        interface, function, wanted = found[wasi.COMMAND], "run", ((), ResultType(None, None))
    elif wasi.PROXY in found:
        interface, function, wanted = found[wasi.PROXY], "handle", ((owned, owned), None)
    else:
        return None
    has = types.function(f"{interface}{SEPARATOR}{function}")
    if has is not None and (tuple(kind for _, kind in has.parameters), has.result) == wanted:
        return None
    instead = "has none" if has is None else f"has it as {has}"
    return f"it exports {interface}, whose function `{function}` WASI 0.2 demands, and {instead}"


def _items(prefix: str, owner: int, engine: int) -> Iterator[tuple[str, Item]]:
    wasmtime = component_library()
    nth = getattr(wasmtime, f"{prefix}_export_nth")
    for index in range(getattr(wasmtime, f"{prefix}_export_count")(owner, engine)):
        extern, name, size = c_void_p(), c_void_p(), c_size_t()
        if not nth(owner, engine, index, byref(name), byref(size), byref(extern)):
            return
        spelled = _name(name, size)
        item = _take_item(extern)
        try:
            yield spelled, item
        finally:
            wasmtime.wasmtime_component_item_delete(byref(item))


def _take_item(extern: c_void_p) -> Item:
    wasmtime = component_library()
    item = Item()
    wasmtime.wasmtime_component_extern_type(extern, byref(item))
    wasmtime.wasmtime_component_extern_delete(extern)
    return item


def _text(item: Item) -> str:
    if item.kind == ITEM_FUNCTION:
        try:
            return str(_TypeReader().function_type(item.of))
        except EngineError as error:
            return f"func of {error}"
    return ITEM_KINDS[item.kind] if item.kind < len(ITEM_KINDS) else "unknown"


class _TypeReader:
    """Reads one function's type."""

    def __init__(self) -> None:
        self._parts = 0

    def function_type(self, pointer: int) -> ComponentFunctionType:
        """The type behind a `wasmtime_component_func_type_t`. Raises `EngineError`."""
        wasmtime = component_library()
        if wasmtime.wasmtime_component_func_type_async(pointer):
            raise EngineError("an asynchronous type, which is newer than WASI 0.2")
        parameters = self._named(
            pointer,
            wasmtime.wasmtime_component_func_type_param_count,
            wasmtime.wasmtime_component_func_type_param_nth,
            0,
        )
        return ComponentFunctionType(
            parameters, self._optional(wasmtime.wasmtime_component_func_type_result, pointer, 0)
        )

    def _optional(self, read: Callable[..., bool], pointer: int, depth: int) -> WitType | None:
        found = ValueType()
        return self._taken(found, depth) if read(pointer, byref(found)) else None

    def _named(
        self, pointer: int, count: Callable[..., int], nth: Callable[..., bool], depth: int
    ) -> tuple[tuple[str, WitType], ...]:
        found = []
        for index in range(count(pointer)):
            name, size, kind = c_void_p(), c_size_t(), ValueType()
            nth(pointer, index, byref(name), byref(size), byref(kind))
            found.append((_name(name, size), self._taken(kind, depth)))
        return tuple(found)

    def _cases(self, pointer: int, depth: int) -> tuple[tuple[str, WitType | None], ...]:
        wasmtime = component_library()
        found: list[tuple[str, WitType | None]] = []
        for index in range(wasmtime.wasmtime_component_variant_type_case_count(pointer)):
            name, size, has_value, kind = c_void_p(), c_size_t(), c_bool(), ValueType()
            wasmtime.wasmtime_component_variant_type_case_nth(
                pointer, index, byref(name), byref(size), byref(has_value), byref(kind)
            )
            found.append((_name(name, size), self._taken(kind, depth) if has_value else None))
        return tuple(found)

    def _taken(self, kind: ValueType, depth: int) -> WitType:
        """A type that is ours, which is freed."""
        try:
            return self._type(kind, depth + 1)
        finally:
            component_library().wasmtime_component_valtype_delete(byref(kind))

    def _type(self, kind: ValueType, depth: int) -> WitType:
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise EngineError(f"a type that is nested more than {MAX_DEPTH} times or has more than {MAX_PARTS} parts")
        wasmtime = component_library()
        code: int = kind.kind
        if code < len(_PRIMITIVES):
            return Primitive(_PRIMITIVES[code])
        inner = ValueType()
        match code:
            case 13:  # list
                wasmtime.wasmtime_component_list_type_element(kind.of, byref(inner))
                return ListType(self._taken(inner, depth))
            case 14:  # record
                fields = wasmtime.wasmtime_component_record_type_field_count
                return RecordType(
                    self._named(kind.of, fields, wasmtime.wasmtime_component_record_type_field_nth, depth)
                )
            case 15:  # tuple
                return self._tuple(kind.of, depth)
            case 16:  # variant
                return VariantType(self._cases(kind.of, depth))
            case 17:  # enum
                count = wasmtime.wasmtime_component_enum_type_names_count
                return EnumType(_names(kind.of, count, wasmtime.wasmtime_component_enum_type_names_nth))
            case 18:  # option
                wasmtime.wasmtime_component_option_type_ty(kind.of, byref(inner))
                return OptionType(self._taken(inner, depth))
            case 19:  # result
                ok = self._optional(wasmtime.wasmtime_component_result_type_ok, kind.of, depth)
                return ResultType(ok, self._optional(wasmtime.wasmtime_component_result_type_err, kind.of, depth))
            case 20:  # flags
                count = wasmtime.wasmtime_component_flags_type_names_count
                return FlagsType(_names(kind.of, count, wasmtime.wasmtime_component_flags_type_names_nth))
        return UnsupportedType(_UNSUPPORTED.get(code, f"unknown type {code}"))

    def _tuple(self, pointer: int, depth: int) -> TupleType:
        wasmtime = component_library()
        items = []
        for index in range(wasmtime.wasmtime_component_tuple_type_types_count(pointer)):
            kind = ValueType()
            wasmtime.wasmtime_component_tuple_type_types_nth(pointer, index, byref(kind))
            items.append(self._taken(kind, depth))
        return TupleType(tuple(items))


def _names(pointer: int, count: Callable[..., int], nth: Callable[..., bool]) -> tuple[str, ...]:
    found = []
    for index in range(count(pointer)):
        name, size = c_void_p(), c_size_t()
        nth(pointer, index, byref(name), byref(size))
        found.append(_name(name, size))
    return tuple(found)


def _name(pointer: c_void_p, size: c_size_t) -> str:
    return string_at(pointer, size.value).decode(errors="replace")
