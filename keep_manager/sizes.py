"""Sizes as people write them in configuration files and options."""

from __future__ import annotations

import re

from keep_manager.errors import ConfigurationError

_SIZE = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:iB|B)?", re.ASCII)
_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(value: object) -> int:
    """Bytes from an integer, or from text like `512M` or `4GiB` (powers of 1024). Raises `ConfigurationError`."""
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(match[1]) * _FACTORS[match[2]]
    raise ConfigurationError(f'{value!r} is not a size such as 536870912, "512M" or "4G"')
