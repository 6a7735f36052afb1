"""Names of WebAssembly's features as people write them."""

from __future__ import annotations

import difflib

from keep_protocol.states import WasmFeature
from keep_protocol.webassembly.features import IMPOSSIBLE


def feature_named(name: str) -> WasmFeature:
    """Raises `ValueError`, which says why no keep has it, or which one is near."""
    if name in IMPOSSIBLE:
        raise ValueError(f"no keep has {name}: {IMPOSSIBLE[name]}")
    try:
        return WasmFeature(name)
    except ValueError:
        near = difflib.get_close_matches(name.lower(), list(WasmFeature), 1, 0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(WasmFeature))}"
        raise ValueError(f"there is no feature {name[:100]!r}; {hint}") from None
