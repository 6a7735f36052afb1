"""The part of wasmtime's C API for components that a keep needs, by ctypes; layouts are those of wasmtime 50.

Bound when the first component is loaded: keeps that run modules do not pay for it.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_bool,
    c_char_p,
    c_double,
    c_float,
    c_int8,
    c_int16,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

from app_loader.wasmtime_binding import ByteVector, library

_POINTER_OUT = POINTER(c_void_p)
_SIZE_OUT = POINTER(c_size_t)


class ComponentInstance(Structure):
    """`wasmtime_component_instance_t`."""

    _fields_ = (("store_id", c_uint64), ("_private", c_uint32))


class _FunctionHead(Structure):
    _fields_ = (("store_id", c_uint64), ("_private", c_uint32))


class ComponentFunction(Structure):
    """`wasmtime_component_func_t`."""

    _fields_ = (("_head", _FunctionHead), ("_private", c_uint32), ("_pointer", c_void_p))


class ValueType(Structure):
    """`wasmtime_component_valtype_t`; `of` points to the type that `kind` says it is."""

    _fields_ = (("kind", c_uint8), ("of", c_void_p))


class Item(Structure):
    """`wasmtime_component_item_t`; `of` points to what `kind` says it is."""

    _fields_ = (("kind", c_uint8), ("of", c_void_p), ("_rest", c_void_p))


ITEM_INSTANCE = 1
ITEM_FUNCTION = 3
ITEM_KINDS = ("component", "instance", "core module", "func", "resource", "core func", "type")
"""By `wasmtime_component_item_kind_t`."""


class ComponentValue(Structure):
    """`wasmtime_component_val_t`."""


class ValueVector(Structure):
    """`wasmtime_component_vallist_t` and `wasmtime_component_valtuple_t`."""

    _fields_ = (("size", c_size_t), ("data", POINTER(ComponentValue)))


class RecordEntry(Structure):
    """`wasmtime_component_valrecord_entry_t`."""


class RecordVector(Structure):
    """`wasmtime_component_valrecord_t`."""

    _fields_ = (("size", c_size_t), ("data", POINTER(RecordEntry)))


class NameVector(Structure):
    """`wasmtime_component_valflags_t`."""

    _fields_ = (("size", c_size_t), ("data", POINTER(ByteVector)))


class VariantValue(Structure):
    """`wasmtime_component_valvariant_t`."""

    _fields_ = (("case", ByteVector), ("value", POINTER(ComponentValue)))


class ResultValue(Structure):
    """`wasmtime_component_valresult_t`."""

    _fields_ = (("is_ok", c_bool), ("value", POINTER(ComponentValue)))


class AnyValue(Union):
    """`wasmtime_component_valunion_t`; scalar fields have the names of their types."""

    _fields_ = (
        ("bool", c_bool),
        ("s8", c_int8),
        ("u8", c_uint8),
        ("s16", c_int16),
        ("u16", c_uint16),
        ("s32", c_int32),
        ("u32", c_uint32),
        ("s64", c_int64),
        ("u64", c_uint64),
        ("f32", c_float),
        ("f64", c_double),
        ("char", c_uint32),
        ("name", ByteVector),
        ("vector", ValueVector),
        ("record", RecordVector),
        ("variant", VariantValue),
        ("option", POINTER(ComponentValue)),
        ("result", ResultValue),
        ("flags", NameVector),
        ("resource", c_void_p),
    )


ComponentValue._fields_ = (("kind", c_uint8), ("of", AnyValue))
RecordEntry._fields_ = (("name", ByteVector), ("value", ComponentValue))

HostComponentFunction = CFUNCTYPE(
    c_void_p, c_void_p, c_void_p, c_void_p, POINTER(ComponentValue), c_size_t, POINTER(ComponentValue), c_size_t
)
"""`wasmtime_component_func_callback_t`: (data, context, type, arguments, count, results, count) → error or None."""

_NAME_OUT = (POINTER(c_void_p), _SIZE_OUT)

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "wasmtime_component_new": (c_void_p, (c_void_p, c_void_p, c_size_t, _POINTER_OUT)),
    "wasmtime_component_serialize": (c_void_p, (c_void_p, POINTER(ByteVector))),
    "wasmtime_component_deserialize_file": (c_void_p, (c_void_p, c_char_p, _POINTER_OUT)),
    "wasmtime_component_delete": (None, (c_void_p,)),
    "wasmtime_component_type": (c_void_p, (c_void_p,)),
    # Types.
    "wasmtime_component_type_export_count": (c_size_t, (c_void_p, c_void_p)),
    "wasmtime_component_type_export_nth": (c_bool, (c_void_p, c_void_p, c_size_t, *_NAME_OUT, _POINTER_OUT)),
    "wasmtime_component_type_export_get": (c_bool, (c_void_p, c_void_p, c_char_p, c_size_t, _POINTER_OUT)),
    "wasmtime_component_type_delete": (None, (c_void_p,)),
    "wasmtime_component_instance_type_export_count": (c_size_t, (c_void_p, c_void_p)),
    "wasmtime_component_instance_type_export_nth": (c_bool, (c_void_p, c_void_p, c_size_t, *_NAME_OUT, _POINTER_OUT)),
    "wasmtime_component_instance_type_export_get": (c_bool, (c_void_p, c_void_p, c_char_p, c_size_t, _POINTER_OUT)),
    "wasmtime_component_extern_type": (None, (c_void_p, POINTER(Item))),
    "wasmtime_component_extern_delete": (None, (c_void_p,)),
    "wasmtime_component_item_delete": (None, (POINTER(Item),)),
    "wasmtime_component_func_type_async": (c_bool, (c_void_p,)),
    "wasmtime_component_func_type_param_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_func_type_param_nth": (c_bool, (c_void_p, c_size_t, *_NAME_OUT, POINTER(ValueType))),
    "wasmtime_component_func_type_result": (c_bool, (c_void_p, POINTER(ValueType))),
    "wasmtime_component_valtype_delete": (None, (POINTER(ValueType),)),
    "wasmtime_component_list_type_element": (None, (c_void_p, POINTER(ValueType))),
    "wasmtime_component_record_type_field_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_record_type_field_nth": (c_bool, (c_void_p, c_size_t, *_NAME_OUT, POINTER(ValueType))),
    "wasmtime_component_tuple_type_types_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_tuple_type_types_nth": (c_bool, (c_void_p, c_size_t, POINTER(ValueType))),
    "wasmtime_component_variant_type_case_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_variant_type_case_nth": (
        c_bool,
        (c_void_p, c_size_t, *_NAME_OUT, POINTER(c_bool), POINTER(ValueType)),
    ),
    "wasmtime_component_enum_type_names_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_enum_type_names_nth": (c_bool, (c_void_p, c_size_t, *_NAME_OUT)),
    "wasmtime_component_flags_type_names_count": (c_size_t, (c_void_p,)),
    "wasmtime_component_flags_type_names_nth": (c_bool, (c_void_p, c_size_t, *_NAME_OUT)),
    "wasmtime_component_option_type_ty": (None, (c_void_p, POINTER(ValueType))),
    "wasmtime_component_result_type_ok": (c_bool, (c_void_p, POINTER(ValueType))),
    "wasmtime_component_result_type_err": (c_bool, (c_void_p, POINTER(ValueType))),
    # Linking.
    "wasmtime_component_linker_new": (c_void_p, (c_void_p,)),
    "wasmtime_component_linker_allow_shadowing": (None, (c_void_p, c_bool)),
    "wasmtime_component_linker_add_wasip2": (c_void_p, (c_void_p,)),
    "wasmtime_component_linker_root": (c_void_p, (c_void_p,)),
    "wasmtime_component_linker_instance_add_instance": (c_void_p, (c_void_p, c_char_p, c_size_t, _POINTER_OUT)),
    "wasmtime_component_linker_instance_add_func": (
        c_void_p,
        (c_void_p, c_char_p, c_size_t, HostComponentFunction, c_void_p, c_void_p),
    ),
    "wasmtime_component_linker_instance_delete": (None, (c_void_p,)),
    "wasmtime_component_linker_instantiate": (c_void_p, (c_void_p, c_void_p, c_void_p, POINTER(ComponentInstance))),
    # Calling.
    "wasmtime_component_get_export_index": (c_void_p, (c_void_p, c_void_p, c_char_p, c_size_t)),
    "wasmtime_component_instance_get_func": (
        c_bool,
        (POINTER(ComponentInstance), c_void_p, c_void_p, POINTER(ComponentFunction)),
    ),
    "wasmtime_component_func_call": (
        c_void_p,
        (
            POINTER(ComponentFunction),
            c_void_p,
            POINTER(ComponentValue),
            c_size_t,
            POINTER(ComponentValue),
            c_size_t,
        ),
    ),
    "wasmtime_component_val_delete": (None, (POINTER(ComponentValue),)),
    "wasmtime_error_new": (c_void_p, (c_char_p,)),
}


@functools.cache
def component_library() -> ctypes.CDLL:
    """Wasmtime's library with the functions for components bound. Raises `EngineError`."""
    loaded = library()
    for name, (result, parameters) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = parameters
    return loaded
