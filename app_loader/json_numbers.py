"""Numbers of guests as JSON, both ways, without losing a bit.

Integers beyond 2^53 - 1, which many JSON readers round, and NaN and infinities, which JSON has not, are strings.
"""

from __future__ import annotations

import math
import re
from typing import Any

from keep_protocol.errors import ErrorCode, RefusalError

_EXACT = 2**53 - 1
_DECIMAL = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_F32 = 3.4028235677973366e38
"""From here on a number rounds to infinity as f32."""

INTEGERS = {
    "s8": (-(2**7), 2**7 - 1),
    "u8": (0, 2**8 - 1),
    "s16": (-(2**15), 2**15 - 1),
    "u16": (0, 2**16 - 1),
    "s32": (-(2**31), 2**31 - 1),
    "u32": (0, 2**32 - 1),
    "s64": (-(2**63), 2**63 - 1),
    "u64": (0, 2**64 - 1),
    # Core modules do not say whether their integers have a sign.
    "i32": (-(2**31), 2**32 - 1),
    "i64": (-(2**63), 2**64 - 1),
}
"""The least and the greatest value of each type."""


def mismatch(where: str, expected: str, value: Any) -> RefusalError:
    """A value that is none of the type that is wanted at `where`."""
    return RefusalError(ErrorCode.FIELD_INVALID, f"expected {expected}, got {_shown(value)}", field=where)


def integer(value: Any, kind: str, where: str) -> int:
    """A value as an integer of a type of `INTEGERS`. Raises `RefusalError`."""
    least, greatest = INTEGERS[kind]
    wide = kind.endswith("64")
    if wide and isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise mismatch(where, f"{kind}, a whole number" + (" or one in a string" if wide else ""), value)
    if not least <= value <= greatest:
        raise RefusalError(
            ErrorCode.FIELD_INVALID, f"expected {kind}, from {least} to {greatest}, got {value}", field=where
        )
    return value


def real(value: Any, kind: str, where: str) -> float:
    """A value as an f32 or f64. Raises `RefusalError`."""
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise mismatch(where, f'{kind}, a number, "NaN", "Infinity" or "-Infinity"', value)
    if kind == "f32" and abs(value) >= _MAX_F32:
        raise RefusalError(ErrorCode.FIELD_INVALID, f"{value} is beyond the range of f32", field=where)
    return float(value)


def integer_as_json(value: int) -> int | str:
    """What stands for an integer."""
    return value if -_EXACT <= value <= _EXACT else str(value)


def real_as_json(value: float) -> float | str:
    """What stands for an f32 or f64."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return f"the string {value[:40]!r}"
        case list():
            return f"an array of {len(value)}"
    return "an object"
