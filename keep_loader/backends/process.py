"""Backend `process`: the unit's own process becomes the keep's server."""

from __future__ import annotations

from app_loader.main import run

__all__ = ["run"]
