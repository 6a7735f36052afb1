"""Values of host functions: from wasmtime to Python and back, by WIT types that are known when this is written.

A `list<u8>` is bytes, a `result` is a pair of whether it is ok and its value, a variant a pair of case and value, a
record a dict, an option its value or None, a resource the object that it stands for. What is made for wasmtime is
allocated by it, because it frees it.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_void_p
from typing import Any, NamedTuple, Protocol

from app_loader.component_binding import ComponentValue, RecordVector, ValueVector
from app_loader.wasi_http.binding import resource_library
from app_loader.wasi_http.errors import GuestFaultError
from app_loader.wasi_http.resources import Resource, ResourceTable
from app_loader.wasmtime_binding import ByteVector, check, peek_bytes

# `wasmtime_component_valkind_t`.
_SCALARS = {"bool": 0, "u8": 2, "u16": 4, "u32": 6, "u64": 8}
_STRING, _LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT = range(12, 20)
_RESOURCE = 21

_VALUE_SIZE = ctypes.sizeof(ComponentValue)
_VALUE_OFFSET = ComponentValue.of.offset
_ZERO_BYTE = bytes(ComponentValue(kind=_SCALARS["u8"]))

MAX_LIST = 65536
"""Elements of a list that a guest passes, unless they are bytes."""


class Place(NamedTuple):
    """Where values of one host call live: a `wasmtime_context_t` and the resources of its store."""

    context: int
    resources: ResourceTable


class Kind(Protocol):
    """A type of WIT."""

    def lift(self, place: Place, value: ComponentValue) -> Any:
        """What wasmtime passes."""

    def lower(self, place: Place, value: ComponentValue, given: Any) -> None:
        """Fill `value`, which wasmtime takes over, with `given`."""


class Scalar:
    """A number or `bool`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kind = _SCALARS[name]

    def lift(self, _place: Place, value: ComponentValue) -> Any:
        return getattr(value.of, self._name)

    def lower(self, _place: Place, value: ComponentValue, given: Any) -> None:
        value.kind = self._kind
        setattr(value.of, self._name, given)


class String:
    """`string`"""

    def lift(self, _place: Place, value: ComponentValue) -> str:
        return peek_bytes(value.of.name).decode()

    def lower(self, _place: Place, value: ComponentValue, given: str) -> None:
        value.kind = _STRING
        value.of.name = _name(given)


class Bytes:
    """`list<u8>`; wasmtime has a whole value for each byte, so they are picked out and spread by slices."""

    def lift(self, _place: Place, value: ComponentValue) -> bytes:
        vector = value.of.vector
        if not vector.size:
            return b""
        return ctypes.string_at(vector.data, vector.size * _VALUE_SIZE)[_VALUE_OFFSET::_VALUE_SIZE]

    def lower(self, _place: Place, value: ComponentValue, given: bytes) -> None:
        vector = ValueVector()
        count = len(given)
        resource_library().wasmtime_component_vallist_new_uninit(byref(vector), count)
        if count:
            spread = bytearray(_ZERO_BYTE) * count
            spread[_VALUE_OFFSET::_VALUE_SIZE] = given
            ctypes.memmove(vector.data, (ctypes.c_char * len(spread)).from_buffer(spread), len(spread))
        value.kind = _LIST
        value.of.vector = vector


class List:
    """`list<T>` of anything but bytes."""

    def __init__(self, element: Kind) -> None:
        self._element = element

    def lift(self, place: Place, value: ComponentValue) -> list[Any]:
        vector = value.of.vector
        if vector.size > MAX_LIST:
            raise GuestFaultError(f"a list of {vector.size} elements is too long, {MAX_LIST} are possible")
        return [self._element.lift(place, vector.data[index]) for index in range(vector.size)]

    def lower(self, place: Place, value: ComponentValue, given: list[Any]) -> None:
        vector = ValueVector()
        resource_library().wasmtime_component_vallist_new_uninit(byref(vector), len(given))
        for index, element in enumerate(given):
            self._element.lower(place, vector.data[index], element)
        value.kind = _LIST
        value.of.vector = vector


class Tuple:
    """`tuple<T, …>`"""

    def __init__(self, *items: Kind) -> None:
        self._items = items

    def lift(self, place: Place, value: ComponentValue) -> tuple[Any, ...]:
        data = value.of.vector.data
        return tuple(item.lift(place, data[index]) for index, item in enumerate(self._items))

    def lower(self, place: Place, value: ComponentValue, given: tuple[Any, ...]) -> None:
        vector = ValueVector()
        resource_library().wasmtime_component_valtuple_new_uninit(byref(vector), len(self._items))
        for index, (item, part) in enumerate(zip(self._items, given, strict=True)):
            item.lower(place, vector.data[index], part)
        value.kind = _TUPLE
        value.of.vector = vector


class Record:
    """`record`"""

    def __init__(self, **fields: Kind) -> None:
        self._fields = {name.replace("_", "-"): kind for name, kind in fields.items()}

    def lift(self, place: Place, value: ComponentValue) -> dict[str, Any]:
        data = value.of.record.data
        return {name: kind.lift(place, data[index].value) for index, (name, kind) in enumerate(self._fields.items())}

    def lower(self, place: Place, value: ComponentValue, given: dict[str, Any]) -> None:
        vector = RecordVector()
        resource_library().wasmtime_component_valrecord_new_uninit(byref(vector), len(self._fields))
        for index, (name, kind) in enumerate(self._fields.items()):
            vector.data[index].name = _name(name)
            kind.lower(place, vector.data[index].value, given.get(name))
        value.kind = _RECORD
        value.of.record = vector


class Variant:
    """`variant`: a pair of case and value."""

    def __init__(self, cases: dict[str, Kind | None]) -> None:
        self._cases = cases

    def lift(self, place: Place, value: ComponentValue) -> tuple[str, Any]:
        case = peek_bytes(value.of.variant.case).decode()
        kind = self._cases[case]
        return case, None if kind is None else kind.lift(place, value.of.variant.value.contents)

    def lower(self, place: Place, value: ComponentValue, given: tuple[str, Any]) -> None:
        case, payload = given
        kind = self._cases[case]
        value.of.variant.case = _name(case)
        value.of.variant.value = None if kind is None else _boxed(place, kind, payload)
        value.kind = _VARIANT


class Enum:
    """`enum`: its name."""

    def lift(self, _place: Place, value: ComponentValue) -> str:
        return peek_bytes(value.of.name).decode()

    def lower(self, _place: Place, value: ComponentValue, given: str) -> None:
        value.kind = _ENUM
        value.of.name = _name(given)


class Option:
    """`option<T>`: the value or None, so not for options of options."""

    def __init__(self, some: Kind) -> None:
        self._some = some

    def lift(self, place: Place, value: ComponentValue) -> Any:
        return self._some.lift(place, value.of.option.contents) if value.of.option else None

    def lower(self, place: Place, value: ComponentValue, given: Any) -> None:
        value.of.option = None if given is None else _boxed(place, self._some, given)
        value.kind = _OPTION


class Result:
    """`result<T, E>`: whether it is ok, and the value."""

    def __init__(self, ok: Kind | None = None, error: Kind | None = None) -> None:
        self._ok = ok
        self._error = error

    def lift(self, place: Place, value: ComponentValue) -> tuple[bool, Any]:
        is_ok = bool(value.of.result.is_ok)
        kind = self._ok if is_ok else self._error
        return is_ok, None if kind is None else kind.lift(place, value.of.result.value.contents)

    def lower(self, place: Place, value: ComponentValue, given: tuple[bool, Any]) -> None:
        is_ok, payload = given
        kind = self._ok if is_ok else self._error
        value.of.result.value = None if kind is None else _boxed(place, kind, payload)
        value.of.result.is_ok = is_ok
        value.kind = _RESULT


class Borrow:
    """`borrow<T>` of one of our resources: the object, which stays the guest's."""

    def __init__(self, resource: type[Resource]) -> None:
        self._resource = resource

    def lift(self, place: Place, value: ComponentValue) -> Resource:
        found = place.resources.get(_representation(place, value))
        if not isinstance(found, self._resource):
            raise GuestFaultError(f"a handle is no {self._resource.__name__}")
        return found

    def lower(self, _place: Place, _value: ComponentValue, _given: Any) -> None:
        raise TypeError("host functions return no borrowed resources")


class Own:
    """`own<T>` of one of our resources: the object, which changes hands."""

    def __init__(self, resource: type[Resource]) -> None:
        self._resource = resource

    def lift(self, place: Place, value: ComponentValue) -> Resource:
        found = place.resources.take(_representation(place, value))
        if not isinstance(found, self._resource):
            raise GuestFaultError(f"a handle is no {self._resource.__name__}")
        return found

    def lower(self, place: Place, value: ComponentValue, given: Resource) -> None:
        value.of.resource = own_handle(place, given)
        value.kind = _RESOURCE


def own_handle(place: Place, given: Resource) -> int | None:
    """A new `wasmtime_component_resource_any_t` that owns `given`. Raises `GuestFaultError`, `EngineError`."""
    wasmtime = resource_library()
    host = wasmtime.wasmtime_component_resource_host_new(True, place.resources.add(given), given.type_number())
    handle = c_void_p()
    try:
        check(wasmtime.wasmtime_component_resource_host_to_any(place.context, host, byref(handle)))
    finally:
        wasmtime.wasmtime_component_resource_host_delete(host)
    return handle.value


def fill_owned(place: Place, value: ComponentValue, given: Resource) -> None:
    """Make `value`, an argument for the guest, own `given`."""
    value.of.resource = own_handle(place, given)
    value.kind = _RESOURCE


def _representation(place: Place, value: ComponentValue) -> int:
    """Of a handle that the guest passed. A borrowed one has to be asked, or wasmtime takes it for still borrowed."""
    wasmtime = resource_library()
    host = c_void_p()
    check(wasmtime.wasmtime_component_resource_any_to_host(place.context, value.of.resource, byref(host)))
    number = int(wasmtime.wasmtime_component_resource_host_rep(host))
    wasmtime.wasmtime_component_resource_host_delete(host)
    return number


def _boxed(place: Place, kind: Kind, given: Any) -> ctypes._Pointer[ComponentValue]:
    inner = ComponentValue()
    kind.lower(place, inner, given)
    boxed: ctypes._Pointer[ComponentValue] = resource_library().wasmtime_component_val_new(byref(inner))
    return boxed


def _name(text: str) -> ByteVector:
    encoded = text.encode()
    vector = ByteVector()
    resource_library().wasm_byte_vec_new(byref(vector), len(encoded), encoded)
    return vector


BOOL = Scalar("bool")
U8 = Scalar("u8")
U16 = Scalar("u16")
U32 = Scalar("u32")
U64 = Scalar("u64")
STRING = String()
BYTES = Bytes()
