"""Writes TOML: the standard library reads it only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_WIDE = 100


def toml_document(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """The document, tables after plain values. A None is left out: TOML has none."""
    lines = [f"{key(name)} = {value(item)}" for name, item in document.items() if not is_table(item)]
    text = "".join(f"{line}\n" for line in lines if not line.endswith(" = "))
    for name, item in document.items():
        below = (*path, name)
        if isinstance(item, Mapping):
            text += f"\n[{table(below)}]\n{toml_document(item, below)}"
        elif is_table(item):
            text += "".join(f"\n[[{table(below)}]]\n{toml_document(each, below)}" for each in item)
    return text


def is_table(item: Any) -> bool:
    """Whether the item becomes a table, or several, of its own."""
    is_list = isinstance(item, Sequence) and not isinstance(item, str)
    return isinstance(item, Mapping) or (is_list and bool(item) and all(isinstance(each, Mapping) for each in item))


def table(path: tuple[str, ...]) -> str:
    """The name of a table."""
    return ".".join(map(key, path))


def key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else value(name)


def value(item: Any) -> str:
    """One value; empty for None."""
    match item:
        case None:
            return ""
        case bool():
            return "true" if item else "false"
        case int():
            return str(item)
        case str():
            # JSON's escapes are TOML's; DEL must be escaped in TOML alone.
            return msgspec.json.encode(item).decode().replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{key(name)} = {value(each)}" for name, each in item.items()) + " }"
        case _:
            items = [value(each) for each in item]
            line = f"[{', '.join(items)}]"
            return line if len(line) <= _WIDE else "[\n" + "".join(f"    {each},\n" for each in items) + "]"
