"""Names of what a key broker gives out, as Trustee has them."""

from __future__ import annotations

import re
from typing import Final

RESOURCE_SEGMENT: Final = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
RESOURCE_PATTERN: Final = f"^{RESOURCE_SEGMENT}/{RESOURCE_SEGMENT}/{RESOURCE_SEGMENT}$"
RESOURCE_RULE: Final = "REPOSITORY/TYPE/TAG, each of letters, digits, '-', '_' and '.', and not beginning with a dot"


def is_resource_segment(text: str) -> bool:
    """Whether `text` may be one of the three parts of a resource's name: it could change the path otherwise."""
    return re.fullmatch(RESOURCE_SEGMENT, text, re.ASCII) is not None
