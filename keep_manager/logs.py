"""The manager's log: one line a record on standard error, where systemd or a terminal takes it."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """Keeps what came from outside from starting a line of its own; tracebacks stay readable below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        message = super().formatMessage(record)
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)


def configure_logging(level: str = "INFO") -> None:
    """Log to standard error. uvicorn's own start and stop messages repeat ours, so only its warnings are shown."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(_FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
