"""Where in a TOML file a key stands: tomllib tells no lines."""

from __future__ import annotations

import re
from typing import Final

Path = tuple["str | int", ...]
"""Keys, and numbers of the items of arrays, from the outermost on."""

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*(?:[.=])""")


def line_of(text: str, path: Path) -> int | None:
    """The line, from 1 on, of a key, or of the nearest one around it that can be found."""
    best: tuple[int, int] | None = None
    for number, place in _places(text):
        if path[: len(place)] == place and (best is None or len(place) > best[0]):
            best = (len(place), number)
    return None if best is None else best[1]


def _places(text: str) -> list[tuple[int, Path]]:
    """Every key and header with its line. What is in inline tables and in strings of several lines is not seen."""
    found: list[tuple[int, Path]] = []
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _table(header[2], header[1] == "[[", counts)
            found.append((number, table))
        elif key := _KEY.match(line):
            found.append((number, (*table, key[1].strip("\"'"))))
    return found


def _table(name: str, is_array: bool, counts: dict[Path, int]) -> Path:
    path: Path = ()
    parts = [part.strip().strip("\"'") for part in name.split(".")]
    for index, part in enumerate(parts):
        path = (*path, part)
        last = index == len(parts) - 1
        if is_array and last:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
