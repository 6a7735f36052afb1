"""Descriptions of APIs that are the same on every Python."""

from __future__ import annotations

import inspect
from typing import Any


def cleaned(node: Any) -> Any:
    """A document with every `description` without indentation.

    They come from docstrings, which are indented up to Python 3.12 and not since.
    """
    if isinstance(node, dict):
        return {
            key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else cleaned(value)
            for key, value in node.items()
        }
    return [cleaned(value) for value in node] if isinstance(node, list) else node
