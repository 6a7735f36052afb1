"""The names that a policy's fields and values may have: for whoever has mistyped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

_WRONG: Final = re.compile(r"unknown field `(?P<field>[^`]*)`|Invalid enum value '(?P<value>[^']*)'")
"""Of msgspec's messages."""
_SIMILAR: Final = 0.5


def suggestion(problem: str, document: type[msgspec.Struct]) -> str:
    """What may have been meant by the name in a message of msgspec's about `document`; empty if nothing is near."""
    wrong = _WRONG.search(problem)
    if wrong is None:
        return ""
    fields, values = set[str](), set[str]()
    for kind in _kinds(inspect.type_info(document)):
        if isinstance(kind, inspect.StructType):
            fields |= {field.encode_name for field in kind.fields}
        elif isinstance(kind, inspect.EnumType):
            values |= {str(member.value) for member in kind.cls}
    name, known = (wrong["value"], values) if wrong["field"] is None else (wrong["field"], fields)
    near = difflib.get_close_matches(name, sorted(known), 1, _SIMILAR)
    return f"; did you mean `{near[0]}`?" if near else ""


def _kinds(kind: Any) -> Iterator[Any]:
    """`kind` and all that it is made of."""
    yield kind
    match kind:
        case inspect.Metadata(type=inner):
            inside = [inner]
        case inspect.StructType(fields=fields):
            inside = [field.type for field in fields]
        case inspect.UnionType(types=types):
            inside = list(types)
        case inspect.DictType(key_type=key, value_type=value):
            inside = [key, value]
        case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
            inside = [item]
        case _:
            inside = []
    for each in inside:
        yield from _kinds(each)
