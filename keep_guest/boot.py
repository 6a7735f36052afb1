"""What PID 1 does first: file systems, and what must be settled before OpenSSL is loaded, as `keep_guest.init` does."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from keep_guest import machine, translation
from keep_guest.system import power_off


def main() -> NoReturn:
    """Never returns: the machine powers off when the keep is over."""
    # The kernel starts init with nothing in the way of an environment that anybody should rely on.
    os.environ.clear()
    try:
        machine.mount_file_systems()
        translation.prepare()
        from keep_guest.init import live

        live()
    except BaseException as error:
        print(f"init: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    power_off()
    raise AssertionError("the machine is off")
