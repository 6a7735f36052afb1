"""Where a keep has files that are in memory only, so that whoever removes a keep finds what a killed one left."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

UNIT_MEMORY: Final = Path("/dev/wasmkeep")
"""A tmpfs of its own, which a unit has and nothing else."""
SHARED_MEMORY: Final = Path("/dev/shm")
"""The tmpfs that everybody on a machine has."""


def memory_folder_of(state: Path, parent: Path) -> Path:
    """The folder below one of those, for the keep of this user with this state folder."""
    digest = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()
    return parent / f"wasmkeep-{os.getuid()}-{digest[:16]}"
