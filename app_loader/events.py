"""What happened in a keep that its owners want to know of: the newest events, in memory."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from app_loader.clock import now
from keep_protocol.bounded_log import BoundedLog
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import KeepEventKind

if TYPE_CHECKING:
    # Imported with the first event, or the first question after one.
    from keep_protocol.network_api import KeepEvent, KeepEventList

MAX_EVENTS: Final = 1000
"""Denials and what is about secrets."""
MAX_ROUTINE_EVENTS: Final = 500
_MAX_VALUE: Final = 512

_logger = logging.getLogger(__name__)


class Events:
    """The newest events of this life of the keep; a guest can push older ones out, but not fill memory.

    What a workload does all day has a place of its own, so that it pushes out no denial.
    """

    def __init__(self) -> None:
        self._alarming: deque[KeepEvent] = deque(maxlen=MAX_EVENTS)
        self._routine: deque[KeepEvent] = deque(maxlen=MAX_ROUTINE_EVENTS)
        self._newest = 0
        self._log = BoundedLog(_logger)

    def record(self, kind: KeepEventKind, **detail: str | int | float | None) -> None:
        """Something has happened. Values that are None are left out, long ones cut."""
        from keep_protocol.network_api import KeepEvent

        self._newest += 1
        values = {name: str(value)[:_MAX_VALUE] for name, value in detail.items() if value is not None}
        event = KeepEvent(cursor=self._newest, at=now(), kind=kind, detail=values)
        if kind.is_routine:
            self._routine.append(event)
            return
        self._alarming.append(event)
        # The log is the host's, and whom a workload talks to is not the host's business.
        self._log.warning("event %d: %s; GET /v1/events tells more", self._newest, kind)

    def page(self, cursor: int, limit: int) -> KeepEventList:
        """At most `limit` events after `cursor`. Raises `RefusalError` for a cursor that was never given out."""
        from keep_protocol.network_api import KeepEventList

        if cursor > self._newest:
            raise RefusalError(
                ErrorCode.CURSOR_INVALID,
                f"the newest event of this life of the keep is {self._newest}",
                field="cursor",
                remedy="begin with 0: a restarted keep counts from 1 again",
            )
        kept = (event for event in (*self._alarming, *self._routine) if event.cursor > cursor)
        found = tuple(sorted(kept, key=lambda event: event.cursor)[:limit])
        # The newest is always kept, so a page that is not full ends with it.
        following = found[-1].cursor if found else cursor
        return KeepEventList(events=found, next=following, forgotten=following - cursor - len(found))
