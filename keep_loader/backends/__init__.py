"""What a keep can be made of, one module a backend."""

from __future__ import annotations
