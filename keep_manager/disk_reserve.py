"""A little room on the manager's disk that is given up when the disk is full, so that keeps can still be removed."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

_logger = logging.getLogger(__name__)

SIZE = 512 * 1024
"""Bytes: some removals' worth of the database's journal."""


class DiskReserve:
    """A file of real blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Have it, if there is room; a full disk is no reason not to start."""
        if self._path.exists():
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)
            finally:
                os.close(descriptor)
        except OSError as error:
            _logger.warning("no reserve for a full disk at %s: %s", self._path, error.strerror)
            self.release()

    def release(self) -> None:
        """Give it up."""
        with contextlib.suppress(OSError):
            self._path.unlink()
