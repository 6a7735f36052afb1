"""What the fields of policies mean, from where it is written down: the docstrings in their classes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

import msgspec


@cache
def field_documentation(struct: type[msgspec.Struct]) -> dict[str, str]:
    """By field the string below it in the source, in one line; fields without one are left out."""
    documented: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base is msgspec.Struct or not issubclass(base, msgspec.Struct):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        if isinstance(definition, ast.ClassDef):
            documented |= _below_fields(definition)
    return documented


def _below_fields(definition: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                continue
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name] = " ".join(text.split())
        name = ""
    return found
