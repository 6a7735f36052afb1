"""`keepctl`: keeps, workloads and runs from the command line."""

from __future__ import annotations

from testers.keepctl.program import main

__all__ = ["main"]
