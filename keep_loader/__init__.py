"""A keep's unit process: takes its socket and spec, checks its sandbox, becomes the keep's server."""

from __future__ import annotations
