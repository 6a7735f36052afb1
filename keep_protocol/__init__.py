"""The words that manager, keep and client share: types on the wire and on disk, states, error codes."""

from __future__ import annotations

__version__ = "0.1.0"
