"""What can be wrong with a binary."""

from __future__ import annotations


class MalformedError(ValueError):
    """The bytes are no WebAssembly binary, or use what this reader does not know."""
