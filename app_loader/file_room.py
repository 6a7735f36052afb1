"""How much more may be stored: measured when it matters, and counted in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from keep_protocol.errors import ErrorCode, RefusalError

if TYPE_CHECKING:
    from app_loader.files import Files

MAX_ENTRIES: Final = 100_000
"""Files, folders and links of a keep; also the most that one listing shows."""


class Room:
    """What may still be written: the limit less what is stored, but for the file that is being replaced."""

    def __init__(self, files: Files, replaced: Callable[[], int]) -> None:
        self._files = files
        self._replaced = replaced
        self._base: int | None = None
        self._mark = 0

    async def check(self, size: int) -> None:
        """Raise `RefusalError` when `size` bytes more are too many."""
        if self._base is not None and self._base + self._files.written - self._mark + size <= self._files.limit:
            return
        # Others may have written or removed since it was measured.
        self._mark = self._files.written
        usage = await self._files.usage()
        self._base = usage.size - self._replaced()
        if self._base + self._files.written - self._mark + size > self._files.limit:
            raise RefusalError(
                ErrorCode.BODY_TOO_LARGE,
                f"the keep's files would be more than the {self._files.limit} bytes of its limit `files`"
                f"; {max(self._files.limit - self._base, 0)} are left",
                remedy="remove files, or create a keep with a larger limit",
            )
        if usage.entries >= MAX_ENTRIES:
            raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"a keep has at most {MAX_ENTRIES} files and folders")
