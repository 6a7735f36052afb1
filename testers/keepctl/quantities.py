"""Sizes and durations as people write them."""

from __future__ import annotations

import argparse
import re

_SIZE = re.compile(r"([0-9]{1,15})(?:B|([KMGT])(?:iB)?)?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(text: str) -> int:
    """Bytes: `64M`, `512KiB`, `1G`, `4096`; units are powers of 1024. Raises `argparse.ArgumentTypeError`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: expected bytes, or a number with K, M, G or T")
    return int(match[1]) * _BYTES[match[2] or ""]


def duration(text: str) -> float:
    """Seconds: `30s`, `5m`, `1h`, `250ms`, `30`. Raises `argparse.ArgumentTypeError`."""
    match = _DURATION.fullmatch(text)
    seconds = 0.0 if match is None else float(match[1]) * _SECONDS[match[2] or "s"]
    if seconds <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration: expected a number above 0 with ms, s, m, h or d, such as 30s"
        )
    return seconds


def whole_duration(text: str) -> int:
    """Whole seconds, for limits of specs. Raises `argparse.ArgumentTypeError`."""
    seconds = duration(text)
    if seconds != int(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(seconds)


def percentage(text: str) -> int:
    """Percent of one processor: `100`, `50%`. Raises `argparse.ArgumentTypeError`."""
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: expected percent of one processor, such as 200")
    return int(digits)


def size_text(count: int) -> str:
    """Bytes for people: `512 MiB`."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} B"
