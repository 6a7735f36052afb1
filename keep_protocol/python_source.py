"""Python source as a workload: how large it may be, and the digest that names it together with its runtime."""

from __future__ import annotations

import hashlib
from typing import Final

MAX_SOURCE: Final = 1024 * 1024
"""Bytes of a program."""


def python_digest(runtime: str, source: str) -> str:
    """What evidence names, in hex: a source says little about what happens without that which runs it.

    Both are SHA-256 in hex. In a shell: `printf 'wasmkeep-python\\n%s\\n%s\\n' RUNTIME SOURCE | sha256sum`.
    """
    return hashlib.sha256(f"wasmkeep-python\n{runtime}\n{source}\n".encode()).hexdigest()
