"""`python -m keep_loader INSTANCE`, the ExecStart of `keep@.service`."""

from __future__ import annotations

import gc
import sys


def start() -> int:
    """Become the keep; returns its exit status."""
    # Collections while hundreds of modules are imported find nothing and cost a tenth of the start; on again at READY.
    gc.disable()
    from keep_loader.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
