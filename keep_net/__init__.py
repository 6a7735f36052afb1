"""A keep's network broker: outside the sandbox, it makes the sockets that the keep's spec allows, and no others."""

from __future__ import annotations
