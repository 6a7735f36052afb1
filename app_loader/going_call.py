"""One call of a function, from when it came to its end, and what is remembered of it."""

from __future__ import annotations

from app_loader.clock import rfc3339
from app_loader.served import MAX_NAME, Going
from keep_protocol.served_api import CallRecord


class GoingCall(Going):
    """Remembered without arguments and result."""

    __slots__ = ("_function",)

    def __init__(self, function: str) -> None:
        super().__init__()
        self._function = function[:MAX_NAME]

    def record(self) -> CallRecord:
        """See `Going`."""
        return CallRecord(
            at=rfc3339(self.at),
            function=self._function,
            outcome=self.outcome,
            usage=self.usage,
            code=self.code,
            trap=self.trap,
            message=self.message,
        )
