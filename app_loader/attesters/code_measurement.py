"""The digest that simulated evidence calls its measurement: of the code that a keep runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PACKAGES = ("app_loader", "keep_loader", "keep_protocol")


def measure_code(root: Path | None = None) -> bytes:
    """SHA-256 over the names and digests of all modules of a keep, in the order of their names."""
    root = Path(__file__).parents[2] if root is None else root
    total = hashlib.sha256()
    for package in _PACKAGES:
        # In a guest image there is no source: what is compiled is what runs.
        for path in sorted((root / package).rglob(f"*{Path(__file__).suffix}")):
            total.update(str(path.relative_to(root)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.digest()
