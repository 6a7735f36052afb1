"""A log that strangers can write to, but not fill."""

from __future__ import annotations

import logging
import time
from typing import Final

_BURST: Final = 10.0
"""Lines that may come at once; one a second after that."""


class BoundedLog:
    """Warnings of `logger`, as many as are bearable; how many were left out is said with the next one."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._allowance = _BURST
        self._last = time.monotonic()
        self._suppressed = 0

    def warning(self, message: str, *arguments: object) -> None:
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + now - self._last)
        self._last = now
        if self._allowance < 1:
            self._suppressed += 1
            return
        self._allowance -= 1
        if self._suppressed:
            self._logger.warning("%d further refusals were not logged", self._suppressed)
            self._suppressed = 0
        self._logger.warning(message, *arguments)
