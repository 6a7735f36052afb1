"""Python source as a workload: what it may be, and the digest that names it together with its runtime."""

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


def source_problem(content: bytes) -> str | None:
    """Why no keep takes this as a program, if that is so.

    Whether it is Python, its runtime finds out: that may be of another version than whoever asks.
    """
    if len(content) > MAX_SOURCE:
        return f"a program in Python has at most {MAX_SOURCE} bytes"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"Python source is UTF-8 here, and byte {error.start} is not: save it as UTF-8"
    return f"there is a zero byte at {content.index(0)}: this is no text" if b"\0" in content else None
