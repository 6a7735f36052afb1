"""`python -m keep_loader INSTANCE`, the ExecStart of `keep@.service`."""

from __future__ import annotations

import sys

from keep_loader.main import main

if __name__ == "__main__":
    sys.exit(main())
