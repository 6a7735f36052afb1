"""The start of a broker: `python -m keep_net INSTANCE`, or `start` as in `keep-net@.service`."""

from __future__ import annotations

import sys


def start() -> int:
    """Be the broker until it is stopped; returns its exit status."""
    # msgspec takes one function from it where it is installed, which `typing` has as well, and waits 2 ms for it.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    from keep_net.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
