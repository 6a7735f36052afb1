"""Decodes JSON that others wrote, or a damaged disk gave, with one kind of error for all that can be wrong."""

from __future__ import annotations

from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def decode_strictly(raw: bytes, kind: type[_T]) -> _T:
    """The object of type `kind` in `raw`. Raises `msgspec.DecodeError`, of which `ValidationError` is one.

    msgspec lets two other errors out: of strings that are not UTF-8, and of brackets beyond the recursion limit.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a string is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
