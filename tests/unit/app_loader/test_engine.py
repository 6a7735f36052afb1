"""Tests of `app_loader.engine`."""

from __future__ import annotations

import ctypes

import pytest
import wasmtime
from wasmtime import _bindings

from app_loader import component_binding, wasmtime_binding
from app_loader.engine import Engine, Module
from app_loader.traps import TRAPS


def test_the_structures_have_the_layout_of_the_installed_library() -> None:
    assert ctypes.sizeof(wasmtime_binding.Instance) == ctypes.sizeof(_bindings.wasmtime_instance_t)
    assert ctypes.sizeof(wasmtime_binding.ByteVector) == ctypes.sizeof(_bindings.wasm_byte_vec_t)
    assert ctypes.sizeof(wasmtime_binding.PointerVector) == ctypes.sizeof(_bindings.wasm_importtype_vec_t)
    assert ctypes.sizeof(wasmtime_binding.Value) == ctypes.sizeof(_bindings.wasmtime_val_t)
    # Only ever written by the library, so more room than needed is allowed, less would be overrun.
    assert ctypes.sizeof(wasmtime_binding.Extern) >= ctypes.sizeof(_bindings.wasmtime_extern_t)
    assert wasmtime_binding.Value.of.offset == _bindings.wasmtime_val_t.of.offset
    assert wasmtime_binding.Extern.item.offset == _bindings.wasmtime_extern_t.of.offset


def test_the_structures_for_components_have_the_layout_of_the_installed_library() -> None:
    pairs = (
        (component_binding.ComponentInstance, _bindings.wasmtime_component_instance_t),
        (component_binding.ComponentFunction, _bindings.wasmtime_component_func_t),
        (component_binding.ValueType, _bindings.wasmtime_component_valtype_t),
        (component_binding.Item, _bindings.wasmtime_component_item_t),
        (component_binding.ComponentValue, _bindings.wasmtime_component_val_t),
        (component_binding.RecordEntry, _bindings.wasmtime_component_valrecord_entry_t),
        (component_binding.VariantValue, _bindings.wasmtime_component_valvariant_t),
        (component_binding.ResultValue, _bindings.wasmtime_component_valresult_t),
    )
    for ours, theirs in pairs:
        assert ctypes.sizeof(ours) == ctypes.sizeof(theirs), ours
    assert component_binding.ComponentValue.of.offset == _bindings.wasmtime_component_val_t.of.offset
    assert component_binding.RecordEntry.value.offset == _bindings.wasmtime_component_valrecord_entry_t.val.offset


_BOUND = {**wasmtime_binding._SIGNATURES, **component_binding._SIGNATURES}


def test_every_function_takes_as_many_parameters_as_in_the_installed_library() -> None:
    for name, (_, parameters) in _BOUND.items():
        bound = getattr(_bindings, f"_{name}", None)
        if bound is not None:
            assert len(parameters) == len(bound.argtypes), name


def test_sizes_of_numbers_are_those_of_the_installed_library() -> None:
    for name, (result, parameters) in _BOUND.items():
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


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1))))",
        "(module (func (drop (i32.extend8_s (i32.const 1)))))",
        "(module (func (drop (i32.trunc_sat_f32_s (f32.const 1)))))",
        "(module (func (result i32 i32) (i32.const 1) (i32.const 2)))",
        "(module (table 1 externref) (func (result externref) (table.get (i32.const 0))))",
        "(module (func (result v128) (v128.const i64x2 0 0)))",
        "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))",
        "(module (func $again return_call $again))",
    ],
)
def test_what_every_workload_may_use_needs_nothing_switched_on(text: str) -> None:
    Module.compile(Engine(multi_memory=False), bytearray(wasmtime.wat2wasm(text))).close()
