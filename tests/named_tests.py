"""Tables that name the tests of each of their rows: whether there are such tests."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

_TESTS = Path(__file__).resolve().parent


def missing(places: Iterable[str]) -> list[str]:
    """Those of `places`, each `file below tests::function`, that are not there."""
    return [place for place in places if not _is_there(*place.split("::"))]


def _is_there(file: str, name: str) -> bool:
    path = _TESTS / file
    if not path.is_file():
        return False
    nodes = ast.walk(ast.parse(path.read_bytes()))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in nodes)
