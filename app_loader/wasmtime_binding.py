"""The part of wasmtime's C API that a keep needs, by ctypes.

The package `wasmtime` binds all 760 functions: importing it costs every keep some 40 ms and 6 MiB. Only its
shared library is used here, found without importing the package. Layouts are those of wasmtime 50.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from app_loader.errors import EngineError


class ByteVector(ctypes.Structure):
    """`wasm_byte_vec_t`."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class PointerVector(ctypes.Structure):
    """`wasm_importtype_vec_t`, `wasm_exporttype_vec_t`, `wasm_valtype_vec_t` and `wasm_frame_vec_t` are alike."""

    _fields_ = (("size", c_size_t), ("data", POINTER(c_void_p)))


class Number(ctypes.Union):
    """`wasmtime_valunion_t`, of which only numbers are used; as long as its longest kind."""

    _fields_ = (
        ("i32", c_int32),
        ("u32", c_uint32),
        ("i64", c_int64),
        ("f32", c_float),
        ("f64", c_double),
        ("_longest", c_uint64 * 3),
    )


class Value(ctypes.Structure):
    """`wasmtime_val_t`."""

    _fields_ = (("kind", c_uint8), ("of", Number))


VALUE_TYPES = {0: "i32", 1: "i64", 2: "f32", 3: "f64"}
"""`wasmtime_valkind_t` of numbers, and `wasm_valkind_t` too."""


class Extern(ctypes.Structure):
    """`wasmtime_extern_t`; `item` is passed on as the function or memory that `kind` says it is."""

    _fields_ = (("kind", c_uint8), ("_padding", c_uint8 * 7), ("item", c_uint64 * 3))


class Instance(ctypes.Structure):
    """`wasmtime_instance_t`."""

    _fields_ = (("store_id", c_uint64), ("_private", c_size_t))


EXTERN_FUNCTION = 0
EXTERN_MEMORY = 3

EXTERNTYPE_FUNCTION = 0
EXTERNTYPE_MEMORY = 3
"""`wasm_externkind_t`, as types of imports and exports have it."""

VALTYPE_I32 = 0

HostFunction = CFUNCTYPE(c_void_p, c_void_p, c_void_p, POINTER(Value), c_size_t, POINTER(Value), c_size_t)
"""`wasmtime_func_callback_t`: (env, caller, arguments, count, results, count) → trap or None."""

UncheckedHostFunction = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, c_size_t)
"""`wasmtime_func_unchecked_callback_t`: (env, caller, arguments and results, count) → trap or None."""

RAW_VALUE = 16
"""Bytes of a `wasmtime_val_raw_t`; an i32 is the first 4."""

_POINTER_OUT = POINTER(c_void_p)

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # Configuration and engine.
    "wasm_config_new": (c_void_p, ()),
    "wasm_engine_new_with_config": (c_void_p, (c_void_p,)),
    "wasmtime_config_wasm_threads_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_shared_memory_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_memory64_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_multi_memory_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_gc_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_exceptions_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_function_references_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_wide_arithmetic_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_relaxed_simd_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_stack_switching_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_custom_page_sizes_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_wasm_component_model_async_set": (None, (c_void_p, c_bool)),
    "wasmtime_config_parallel_compilation_set": (None, (c_void_p, c_bool)),
    # Modules.
    "wasmtime_module_new": (c_void_p, (c_void_p, c_void_p, c_size_t, _POINTER_OUT)),
    "wasmtime_module_delete": (None, (c_void_p,)),
    "wasmtime_module_serialize": (c_void_p, (c_void_p, POINTER(ByteVector))),
    "wasmtime_module_deserialize_file": (c_void_p, (c_void_p, c_char_p, _POINTER_OUT)),
    "wasmtime_module_imports": (None, (c_void_p, POINTER(PointerVector))),
    "wasmtime_module_exports": (None, (c_void_p, POINTER(PointerVector))),
    "wasm_importtype_vec_delete": (None, (POINTER(PointerVector),)),
    "wasm_exporttype_vec_delete": (None, (POINTER(PointerVector),)),
    "wasm_importtype_module": (POINTER(ByteVector), (c_void_p,)),
    "wasm_importtype_name": (POINTER(ByteVector), (c_void_p,)),
    "wasm_exporttype_name": (POINTER(ByteVector), (c_void_p,)),
    "wasm_exporttype_type": (c_void_p, (c_void_p,)),
    "wasm_externtype_kind": (c_uint8, (c_void_p,)),
    "wasm_externtype_as_functype_const": (c_void_p, (c_void_p,)),
    "wasmtime_wasm_valtype_equal": (c_bool, (c_void_p, c_void_p)),
    "wasm_functype_params": (POINTER(PointerVector), (c_void_p,)),
    "wasm_functype_results": (POINTER(PointerVector), (c_void_p,)),
    "wasmtime_wat2wasm": (c_void_p, (c_char_p, c_size_t, POINTER(ByteVector))),
    # Linking.
    "wasm_valtype_new": (c_void_p, (c_uint8,)),
    "wasm_valtype_vec_new": (None, (POINTER(PointerVector), c_size_t, _POINTER_OUT)),
    "wasm_functype_new": (c_void_p, (POINTER(PointerVector), POINTER(PointerVector))),
    "wasm_functype_delete": (None, (c_void_p,)),
    "wasmtime_linker_new": (c_void_p, (c_void_p,)),
    "wasmtime_linker_define_wasi": (c_void_p, (c_void_p,)),
    "wasmtime_linker_allow_shadowing": (None, (c_void_p, c_bool)),
    "wasmtime_linker_define_func": (
        c_void_p,
        (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, HostFunction, c_void_p, c_void_p),
    ),
    "wasmtime_linker_get": (
        c_bool,
        (c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(Extern)),
    ),
    "wasmtime_linker_define": (
        c_void_p,
        (c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(Extern)),
    ),
    "wasmtime_linker_instantiate": (c_void_p, (c_void_p, c_void_p, c_void_p, POINTER(Instance), _POINTER_OUT)),
    "wasmtime_instance_new": (
        c_void_p,
        (c_void_p, c_void_p, POINTER(Extern), c_size_t, POINTER(Instance), _POINTER_OUT),
    ),
    "wasmtime_func_new_unchecked": (
        None,
        (c_void_p, c_void_p, UncheckedHostFunction, c_void_p, c_void_p, c_void_p),
    ),
    "wasmtime_linker_instantiate_pre": (c_void_p, (c_void_p, c_void_p, _POINTER_OUT)),
    "wasmtime_instance_pre_delete": (None, (c_void_p,)),
    # One run.
    "wasmtime_store_new": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "wasmtime_store_context": (c_void_p, (c_void_p,)),
    "wasmtime_store_delete": (None, (c_void_p,)),
    "wasmtime_store_limiter": (None, (c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
    "wasmtime_context_set_wasi": (c_void_p, (c_void_p, c_void_p)),
    "wasi_config_new": (c_void_p, ()),
    "wasi_config_set_argv": (c_bool, (c_void_p, c_size_t, POINTER(c_char_p))),
    "wasi_config_set_env": (c_bool, (c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_char_p))),
    "wasi_config_inherit_stdin": (None, (c_void_p,)),
    "wasi_config_inherit_stdout": (None, (c_void_p,)),
    "wasi_config_inherit_stderr": (None, (c_void_p,)),
    "wasi_config_preopen_dir": (c_bool, (c_void_p, c_char_p, c_char_p, c_bool)),
    "wasmtime_instance_pre_instantiate": (c_void_p, (c_void_p, c_void_p, POINTER(Instance), _POINTER_OUT)),
    "wasmtime_instance_export_get": (c_bool, (c_void_p, POINTER(Instance), c_char_p, c_size_t, POINTER(Extern))),
    "wasmtime_func_call": (
        c_void_p,
        (c_void_p, c_void_p, POINTER(Value), c_size_t, POINTER(Value), c_size_t, _POINTER_OUT),
    ),
    "wasmtime_func_call_unchecked": (c_void_p, (c_void_p, c_void_p, c_void_p, c_size_t, _POINTER_OUT)),
    "wasmtime_memory_data": (c_void_p, (c_void_p, c_void_p)),
    "wasmtime_memory_data_size": (c_size_t, (c_void_p, c_void_p)),
    # Errors and traps.
    "wasmtime_error_message": (None, (c_void_p, POINTER(ByteVector))),
    "wasmtime_error_delete": (None, (c_void_p,)),
    "wasmtime_error_wasm_trace": (None, (c_void_p, POINTER(PointerVector))),
    "wasmtime_trap_new": (c_void_p, (c_char_p, c_size_t)),
    "wasmtime_trap_code": (c_bool, (c_void_p, POINTER(c_uint8))),
    "wasm_trap_message": (None, (c_void_p, POINTER(ByteVector))),
    "wasm_trap_trace": (None, (c_void_p, POINTER(PointerVector))),
    "wasm_frame_func_index": (c_uint32, (c_void_p,)),
    "wasm_frame_module_offset": (c_size_t, (c_void_p,)),
    "wasmtime_frame_func_name": (POINTER(ByteVector), (c_void_p,)),
    "wasmtime_frame_module_name": (POINTER(ByteVector), (c_void_p,)),
    "wasm_byte_vec_delete": (None, (POINTER(ByteVector),)),
}


def library_path() -> Path:
    """Where the package `wasmtime` keeps its shared library. Raises `EngineError`."""
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("the Python package `wasmtime` is not installed beside this one")
    path = Path(spec.submodule_search_locations[0]) / f"linux-{platform.machine()}" / "_libwasmtime.so"
    if not path.is_file():
        raise EngineError(f"the package `wasmtime` has no library for this machine: {path} is missing")
    return path


@functools.cache
def library() -> ctypes.CDLL:
    """The shared library, mapped into this process on the first call. Raises `EngineError`."""
    try:
        loaded = ctypes.CDLL(str(library_path()))
    except OSError as error:
        raise EngineError(f"wasmtime's library cannot be loaded: {error}") from None
    for name, (result, parameters) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = parameters
    return loaded


def take_bytes(vector: ByteVector) -> bytes:
    """The bytes of a vector that is ours, which is freed."""
    content = peek_bytes(vector)
    library().wasm_byte_vec_delete(ctypes.byref(vector))
    return content


def peek_bytes(vector: ByteVector) -> bytes:
    """A copy of the bytes of a vector that stays its owner's."""
    return ctypes.string_at(vector.data, vector.size) if vector.size else b""


def take_error(error: int) -> str:
    """The message of a `wasmtime_error_t`, which is freed."""
    vector = ByteVector()
    library().wasmtime_error_message(error, ctypes.byref(vector))
    library().wasmtime_error_delete(error)
    return take_bytes(vector).decode(errors="replace")


def check(error: int | None) -> None:
    """Raise `EngineError` if a call returned an error."""
    if error:
        raise EngineError(take_error(error))
