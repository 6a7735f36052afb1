"""Tests of `app_loader.engine`."""

from __future__ import annotations

import ctypes

import wasmtime
from wasmtime import _bindings

from app_loader import wasmtime_binding
from app_loader.guest import TRAPS


def test_the_structures_have_the_layout_of_the_installed_library() -> None:
    assert ctypes.sizeof(wasmtime_binding.Instance) == ctypes.sizeof(_bindings.wasmtime_instance_t)
    assert ctypes.sizeof(wasmtime_binding.ByteVector) == ctypes.sizeof(_bindings.wasm_byte_vec_t)
    assert ctypes.sizeof(wasmtime_binding.PointerVector) == ctypes.sizeof(_bindings.wasm_importtype_vec_t)
    # Only ever written by the library, so more room than needed is allowed, less would be overrun.
    assert ctypes.sizeof(wasmtime_binding.Value) >= ctypes.sizeof(_bindings.wasmtime_val_t)
    assert ctypes.sizeof(wasmtime_binding.Extern) >= ctypes.sizeof(_bindings.wasmtime_extern_t)
    assert wasmtime_binding.Value.i32.offset == _bindings.wasmtime_val_t.of.offset
    assert wasmtime_binding.Extern.item.offset == _bindings.wasmtime_extern_t.of.offset


def test_every_function_takes_as_many_parameters_as_in_the_installed_library() -> None:
    for name, (_, parameters) in wasmtime_binding._SIGNATURES.items():
        bound = getattr(_bindings, f"_{name}", None)
        if bound is not None:
            assert len(parameters) == len(bound.argtypes), name


def test_sizes_of_numbers_are_those_of_the_installed_library() -> None:
    for name, (result, parameters) in wasmtime_binding._SIGNATURES.items():
        bound = getattr(_bindings, f"_{name}", None)
        if bound is None:
            continue
        pairs = [*zip(parameters, bound.argtypes, strict=True), (result, bound.restype)]
        for ours, theirs in pairs:
            assert (ours is None) == (theirs is None), name
            assert ours is None or ctypes.sizeof(ours) == ctypes.sizeof(theirs), name


def test_traps_have_the_names_of_the_installed_library() -> None:
    known = {code.value: code.name.lower().replace("_", "-") for code in wasmtime.TrapCode}
    assert all(known[code] == name for code, name in TRAPS.items())
