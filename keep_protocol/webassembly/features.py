"""What WebAssembly can have that keeps have only on request, or not at all: names, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import WasmFeature

THREADS: Final = "threads"
STACK_SWITCHING: Final = "stack-switching"
CUSTOM_PAGE_SIZES: Final = "custom-page-sizes"
MULTI_MEMORY: Final = "multi-memory"
LEGACY_EXCEPTIONS: Final = "legacy-exceptions"
COMPONENT_ASYNC: Final = "component-model-async"

IMPOSSIBLE: Final = {
    # A shared memory is outside of every limit of wasmtime's stores, and nothing in a keep could share it.
    THREADS: "a keep runs a guest in one thread, so it has no shared memories and no atomic instructions; build it for "
    "wasm32-wasip1 instead of wasm32-wasip1-threads, and without -pthread",
    STACK_SWITCHING: "no toolchain makes it yet; build it without",
    CUSTOM_PAGE_SIZES: "memories in a keep have pages of 64 KiB; build it without",
    MULTI_MEMORY: "a module in a keep has one memory, so that its limit is the limit of all; build it without, or make "
    "a component of it",
    LEGACY_EXCEPTIONS: "these are the exceptions of before WebAssembly 3.0; build it with the new ones: clang "
    "-mllvm -wasm-use-legacy-eh=false, kotlinc -Xwasm-use-new-exception-proposal, or translate it with wasm-opt "
    "--translate-to-exnref",
    COMPONENT_ASYNC: "a keep offers WASI 0.2, whose components have no asynchronous functions, streams and futures; "
    "build it for wasm32-wasip2",
}
"""What no keep has, and what to do instead."""


def known_features(names: Iterable[str]) -> tuple[WasmFeature, ...]:
    """Those of `names` that a keep can have, in the order of their names."""
    return tuple(sorted(WasmFeature(name) for name in names if name not in IMPOSSIBLE))


def impossible_features(names: Iterable[str]) -> list[str]:
    """Why what has these features is refused whatever is configured."""
    return [f"it needs {name}: {IMPOSSIBLE[name]}" for name in sorted(names) if name in IMPOSSIBLE]


def check_features(needed: Iterable[WasmFeature], allowed: Iterable[WasmFeature]) -> None:
    """Raise `RefusalError` (`feature-off`) if not all that are needed are allowed."""
    on = set(allowed)
    off = sorted(set(needed) - on)
    if off:
        wanted = ", ".join(f'"{feature}"' for feature in sorted(on.union(off)))
        raise RefusalError(
            ErrorCode.FEATURE_OFF,
            f"the workload needs {' and '.join(off)}, which {'is' if len(off) == 1 else 'are'} off",
            field="$.features",
            remedy=f"add features = [{wanted}] to Keep.toml, or the same to the configuration of the keep",
        )
