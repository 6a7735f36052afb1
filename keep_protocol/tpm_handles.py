"""Where in a TPM's non-volatile memory keeps have their counters; keeps define them, the manager frees them."""

from __future__ import annotations

import hashlib
from typing import Final

FIRST_COUNTER: Final = 0x01A0_0000
LAST_COUNTER: Final = 0x01AF_FFFF
"""In the owner's range of NV indices, 0x01800000 to 0x01BFFFFF (TCG Registry of Reserved TPM 2.0 Handles, 2.2.2)."""


def counter_index(keep: str) -> int:
    """The NV index of the counter that a keep seals by. It follows from the id: no keep can name another's to us."""
    digest = hashlib.sha256(b"keep-seal-v1|counter|" + keep.encode()).digest()
    return FIRST_COUNTER + int.from_bytes(digest[:4], "big") % (LAST_COUNTER - FIRST_COUNTER + 1)
