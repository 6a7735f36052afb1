"""What host functions with resources need of wasmtime's C API, beyond calls of components."""

from __future__ import annotations

import ctypes
import functools
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_size_t, c_uint32, c_void_p
from typing import Any

from app_loader.component_binding import ComponentValue, ValueVector, component_library
from app_loader.wasmtime_binding import ByteVector

_POINTER_OUT = POINTER(c_void_p)

ResourceDestructor = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_uint32)
"""`wasmtime_component_resource_destructor_t`: (data, context, representation) → error or None."""

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "wasm_byte_vec_new": (None, (POINTER(ByteVector), c_size_t, c_char_p)),
    "wasmtime_component_val_new": (POINTER(ComponentValue), (POINTER(ComponentValue),)),
    "wasmtime_component_vallist_new_uninit": (None, (POINTER(ValueVector), c_size_t)),
    "wasmtime_component_valtuple_new_uninit": (None, (POINTER(ValueVector), c_size_t)),
    "wasmtime_component_valrecord_new_uninit": (None, (c_void_p, c_size_t)),
    "wasmtime_component_resource_type_new_host": (c_void_p, (c_uint32,)),
    "wasmtime_component_resource_type_delete": (None, (c_void_p,)),
    "wasmtime_component_resource_any_to_host": (c_void_p, (c_void_p, c_void_p, _POINTER_OUT)),
    "wasmtime_component_resource_host_new": (c_void_p, (c_bool, c_uint32, c_uint32)),
    "wasmtime_component_resource_host_to_any": (c_void_p, (c_void_p, c_void_p, _POINTER_OUT)),
    "wasmtime_component_resource_host_rep": (c_uint32, (c_void_p,)),
    "wasmtime_component_resource_host_delete": (None, (c_void_p,)),
    "wasmtime_component_linker_instance_add_resource": (
        c_void_p,
        (c_void_p, c_char_p, c_size_t, c_void_p, ResourceDestructor, c_void_p, c_void_p),
    ),
    "wasmtime_component_type_import_count": (c_size_t, (c_void_p, c_void_p)),
    "wasmtime_component_type_import_nth": (
        c_bool,
        (c_void_p, c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), _POINTER_OUT),
    ),
}


@functools.cache
def resource_library() -> ctypes.CDLL:
    """Wasmtime's library with the functions for resources bound too. Raises `EngineError`."""
    loaded = component_library()
    for name, (result, parameters) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = parameters
    return loaded
