"""Which feature of WebAssembly wasmtime misses, from its words: only it reads every instruction."""

from __future__ import annotations

from typing import Final

from keep_protocol.states import WasmFeature
from keep_protocol.webassembly.features import (
    COMPONENT_ASYNC,
    CUSTOM_PAGE_SIZES,
    LEGACY_EXCEPTIONS,
    MULTI_MEMORY,
    STACK_SWITCHING,
    THREADS,
)

_WORDS: Final = (
    ("legacy_exceptions feature", LEGACY_EXCEPTIONS),
    ("exceptions support is not enabled", WasmFeature.EXCEPTIONS),
    ("exceptions proposal not enabled", WasmFeature.EXCEPTIONS),
    ("without the exception handling feature", WasmFeature.EXCEPTIONS),
    ("gc support is not enabled", WasmFeature.GC),
    ("without the gc feature", WasmFeature.GC),
    ("`gc` proposal", WasmFeature.GC),
    ("gc proposal must be enabled", WasmFeature.GC),
    ("function references required", WasmFeature.GC),
    ("function references support is not enabled", WasmFeature.GC),
    ("memory64 must be enabled", WasmFeature.MEMORY64),
    ("relaxed SIMD support is not enabled", WasmFeature.RELAXED_SIMD),
    ("wide arithmetic support is not enabled", WasmFeature.WIDE_ARITHMETIC),
    ("threads support is not enabled", THREADS),
    ("threads must be enabled", THREADS),
    ("stack switching", STACK_SWITCHING),
    ("custom page sizes proposal", CUSTOM_PAGE_SIZES),
    ("multiple memories", MULTI_MEMORY),
    ("component model async feature", COMPONENT_ASYNC),
)
"""Of wasmparser's validator.rs, validator/core.rs, validator/component.rs and validator/operators.rs."""


def feature_wanted(message: str) -> str | None:
    """Its name, if that is what an error says: of a `WasmFeature`, or of what no keep has."""
    return next((name for words, name in _WORDS if words in message), None)
