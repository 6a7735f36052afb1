"""The start of a keep's unit process: `python -m keep_loader INSTANCE`, or `start` as in `keep@.service`."""

from __future__ import annotations

import gc
import sys


def start() -> int:
    """Become the keep; returns its exit status."""
    # Collections while hundreds of modules are imported find nothing and cost a tenth of the start; on again at READY.
    gc.disable()
    # msgspec takes one function from it where it is installed, which `typing` has as well, and waits 2 ms for it.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    from keep_loader.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
