"""Values of components as JSON, both ways, by the types of the function that takes or returns them.

A record is an object, a list or tuple an array, an enum its name, flags an array of names. A variant's case is its
name, or `{NAME: VALUE}` if it has a value. A result is `{"ok": VALUE}` or `{"error": VALUE}`. An option is its value
or null; if that value may be null itself, as in `option<option<T>>`, it is `{"some": VALUE}` or null.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from ctypes import Array, pointer
from typing import Any

from app_loader.component_binding import ComponentValue, RecordEntry
from app_loader.component_types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResultType,
    TupleType,
    VariantType,
    WitType,
)
from app_loader.errors import EngineError
from app_loader.json_numbers import INTEGERS, integer, integer_as_json, mismatch, real, real_as_json
from app_loader.wasmtime_binding import ByteVector, peek_bytes
from keep_protocol.errors import ErrorCode, RefusalError

# `wasmtime_component_valkind_t`; not in the order of `wasmtime_component_valtype_kind_t`.
_SCALARS = ("bool", "s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64", "char")
_KINDS = {name: kind for kind, name in enumerate(_SCALARS)}
_STRING, _LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS = range(12, 21)


_FORMATS = {
    "bool": "?",
    "s8": "b",
    "u8": "B",
    "s16": "h",
    "u16": "H",
    "s32": "i",
    "u32": "I",
    "s64": "q",
    "u64": "Q",
    "f32": "f",
    "f64": "d",
}
"""As the module `struct` names them."""

_MAX_NAMED = 20
_MAX_TYPE = 200
"""Characters of a type in a message."""


class Lowering:
    """Makes wasmtime's values out of JSON. What it made is valid as long as it lives."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def value(self, target: ComponentValue, kind: WitType, value: Any, where: str) -> None:
        """Fill `target`. `where` is the JSON path that a `RefusalError` names."""
        match kind:
            case Primitive(name):
                self._primitive(target, name, value, where)
            case ListType(element):
                items = self._items(_array(value, _brief(kind), where), lambda _: element, where)
                target.kind, target.of.vector.size, target.of.vector.data = _LIST, len(items), items
            case TupleType(kinds):
                if len(_array(value, _brief(kind), where)) != len(kinds):
                    raise mismatch(where, f"{_brief(kind)}, an array of {len(kinds)}", value)
                items = self._items(value, lambda index: kinds[index], where)
                target.kind, target.of.vector.size, target.of.vector.data = _TUPLE, len(items), items
            case RecordType(fields):
                self._record(target, fields, value, where)
            case VariantType(cases):
                self._variant(target, cases, value, where)
            case EnumType(names):
                if not isinstance(value, str) or value not in names:
                    raise mismatch(where, _one_of(names), value)
                target.kind, target.of.name = _ENUM, self._name(value)
            case FlagsType(names):
                self._flags(target, names, value, where)
            case OptionType(some):
                self._option(target, some, value, where)
            case ResultType():
                self._result(target, kind, value, where)
            case _:
                raise EngineError(f"{kind} has no form in JSON")

    def _primitive(self, target: ComponentValue, name: str, value: Any, where: str) -> None:
        target.kind = _KINDS.get(name, _STRING)
        if name in INTEGERS:
            setattr(target.of, name, integer(value, name, where))
        elif name in {"f32", "f64"}:
            setattr(target.of, name, real(value, name, where))
        elif name == "bool":
            if not isinstance(value, bool):
                raise mismatch(where, "true or false", value)
            target.of.bool = value
        elif not isinstance(value, str):
            raise mismatch(where, f"a {name}", value)
        elif name == "char":
            if len(value) != 1:
                raise mismatch(where, "a string of one character", value)
            target.of.char = ord(value)
        else:
            target.of.name = self._name(value)

    def _items(self, values: list[Any], kind_of: Any, where: str) -> Array[ComponentValue]:
        items = (ComponentValue * len(values))()
        self._kept.append(items)
        for index, value in enumerate(values):
            self.value(items[index], kind_of(index), value, f"{where}[{index}]")
        return items

    def _record(self, target: ComponentValue, fields: tuple[tuple[str, WitType], ...], value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise mismatch(where, f"an object with {_one_of(name for name, _ in fields)}", value)
        known = {name for name, _ in fields}
        for name in value:
            if name not in known:
                detail = f"the record has no such field; it has {_one_of(sorted(known))}"
                raise RefusalError(ErrorCode.FIELD_INVALID, detail, field=f"{where}.{name[:100]}")
        entries = (RecordEntry * len(fields))()
        self._kept.append(entries)
        for index, (name, kind) in enumerate(fields):
            if name not in value and not isinstance(kind, OptionType):
                raise RefusalError(ErrorCode.FIELD_INVALID, f"this {_brief(kind)} is missing", field=f"{where}.{name}")
            entries[index].name = self._name(name)
            self.value(entries[index].value, kind, value.get(name), f"{where}.{name}")
        target.kind, target.of.record.size, target.of.record.data = _RECORD, len(entries), entries

    def _variant(
        self, target: ComponentValue, cases: tuple[tuple[str, WitType | None], ...], value: Any, where: str
    ) -> None:
        name, payload, has_payload = _tagged(value)
        kinds = dict(cases)
        if name not in kinds:
            raise mismatch(where, "one case of " + _one_of(kinds), value)
        kind = kinds[name]
        if has_payload != (kind is not None):
            expected = f'"{name}" alone' if kind is None else f'{{"{name}": {_brief(kind)}}}'
            raise mismatch(where, expected, value)
        target.kind, target.of.variant.case = _VARIANT, self._name(name)
        if kind is not None:
            target.of.variant.value = self._boxed(kind, payload, f"{where}.{name}")

    def _flags(self, target: ComponentValue, names: tuple[str, ...], value: Any, where: str) -> None:
        given = _array(value, f"an array of names out of {_one_of(names)}", where)
        for index, name in enumerate(given):
            if not isinstance(name, str) or name not in names:
                raise mismatch(f"{where}[{index}]", _one_of(names), name)
        vectors = (ByteVector * len(given))(*(self._name(name) for name in given))
        self._kept.append(vectors)
        target.kind, target.of.flags.size, target.of.flags.data = _FLAGS, len(vectors), vectors

    def _option(self, target: ComponentValue, some: WitType, value: Any, where: str) -> None:
        target.kind = _OPTION
        if value is None:
            return
        if isinstance(some, OptionType):
            name, payload, _ = _tagged(value)
            if name != "some":
                raise mismatch(where, 'null or {"some": VALUE}', value)
            value = payload
        target.of.option = self._boxed(some, value, where)

    def _result(self, target: ComponentValue, kind: ResultType, value: Any, where: str) -> None:
        name, payload, _ = _tagged(value)
        if name not in {"ok", "error"}:
            raise mismatch(where, '{"ok": VALUE} or {"error": VALUE}', value)
        inner = kind.ok if name == "ok" else kind.error
        if inner is None and payload is not None:
            raise mismatch(f"{where}.{name}", "null", payload)
        target.kind, target.of.result.is_ok = _RESULT, name == "ok"
        if inner is not None:
            target.of.result.value = self._boxed(inner, payload, f"{where}.{name}")

    def _boxed(self, kind: WitType, value: Any, where: str) -> ctypes._Pointer[ComponentValue]:
        inner = ComponentValue()
        self._kept.append(inner)
        self.value(inner, kind, value, where)
        return pointer(inner)

    def _name(self, text: str) -> ByteVector:
        encoded = ctypes.create_string_buffer(text.encode(), len(text.encode()))
        self._kept.append(encoded)
        return ByteVector(len(encoded), ctypes.addressof(encoded))


def lift(value: ComponentValue, kind: WitType) -> Any:
    """A value of wasmtime as what JSON can hold."""
    of = value.of
    match kind:
        case Primitive("string"):
            return _text(of.name)
        case Primitive("char"):
            return chr(of.char)
        case Primitive(name):
            return _scalar(getattr(of, name), name)
        case ListType(Primitive(name)) if name in _FORMATS:
            return _scalars(of.vector.data, of.vector.size, name)
        case ListType(element):
            return [lift(of.vector.data[index], element) for index in range(of.vector.size)]
        case TupleType(kinds):
            return [lift(of.vector.data[index], inner) for index, inner in enumerate(kinds)]
        case RecordType(fields):
            return {name: lift(of.record.data[index].value, inner) for index, (name, inner) in enumerate(fields)}
        case VariantType(cases):
            name = _text(of.variant.case)
            inner = dict(cases)[name]
            return name if inner is None else {name: lift(of.variant.value.contents, inner)}
        case EnumType():
            return _text(of.name)
        case FlagsType():
            return [_text(of.flags.data[index]) for index in range(of.flags.size)]
        case OptionType(some):
            if not of.option:
                return None
            present = lift(of.option.contents, some)
            return {"some": present} if isinstance(some, OptionType) else present
        case ResultType(ok, error):
            inner = ok if of.result.is_ok else error
            return {
                "ok" if of.result.is_ok else "error": None if inner is None else lift(of.result.value.contents, inner)
            }
        case _:
            raise EngineError(f"{kind} has no form in JSON")


def _scalars(first: Any, count: int, name: str) -> list[Any]:
    """A list of scalars, which may be long: a step by ctypes takes ten times as long."""
    layout = struct.Struct(f"={ComponentValue.of.offset}x{_FORMATS[name]}")
    size = ctypes.sizeof(ComponentValue)
    rest = struct.Struct(f"{layout.format}{size - layout.size}x")
    values = rest.iter_unpack(ctypes.string_at(first, count * size) if count else b"")
    if name in {"bool", "s8", "u8", "s16", "u16", "s32", "u32"}:
        return [value for (value,) in values]
    return [_scalar(value, name) for (value,) in values]


def _scalar(value: Any, name: str) -> Any:
    if name in INTEGERS:
        return integer_as_json(value)
    return value if name == "bool" else real_as_json(value)


def _text(name: ByteVector) -> str:
    return peek_bytes(name).decode(errors="replace")


def _array(value: Any, expected: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise mismatch(where, expected if expected.startswith("an array") else f"{expected}, an array", value)
    return value


def _tagged(value: Any) -> tuple[str, Any, bool]:
    """A name alone, or an object with one member, as name, value, and whether there is a value."""
    if isinstance(value, str):
        return value, None, False
    if isinstance(value, dict) and len(value) == 1:
        ((name, payload),) = value.items()
        return name, payload, True
    return "", value, False


def _one_of(names: Iterable[str]) -> str:
    listed = [f'"{name}"' for name in names]
    return ", ".join(listed[:_MAX_NAMED]) + (", …" if len(listed) > _MAX_NAMED else "")


def _brief(kind: WitType) -> str:
    text = str(kind)
    return text if len(text) <= _MAX_TYPE else f"{text[:_MAX_TYPE]}…"
