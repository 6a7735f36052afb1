"""`python -m testers.keepctl`"""

from __future__ import annotations

import sys

from testers.keepctl.program import main

if __name__ == "__main__":
    sys.exit(main())
