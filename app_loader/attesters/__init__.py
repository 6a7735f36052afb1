"""Make evidence inside a keep, one module per kind of hardware; nothing here verifies."""

from __future__ import annotations
