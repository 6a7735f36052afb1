"""What happened, for whoever wants to follow it: durable pages and live subscriptions over the same cursor."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from keep_manager.store import DENIED_KIND, NewEvent, Store
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.manager_api import Event

PAGE = 256
MAX_SUBSCRIPTIONS = 64
DENIALS_PER_MINUTE = 20
DENIALS_PER_ACTOR = 5
"""Events about refused requests per minute; beyond them there is the log only."""


class EventLog:
    """Events in their one order. Subscribers read the database, so a slow one costs no memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._news = asyncio.Event()
        self._closing = False
        self._subscriptions = 0
        self._denied: Counter[str | None] = Counter()
        self._minute = 0

    @property
    def last(self) -> int:
        """The newest cursor."""
        return self._store.last_cursor()

    def announce(self) -> None:
        """Wake the subscribers: the store has a new event."""
        self._news.set()
        self._news = asyncio.Event()

    def append(self, event: NewEvent) -> Event:
        """Record an event of its own and wake the subscribers."""
        written = self._store.append(event)
        self.announce()
        return written

    def deny(self, actor: str | None, detail: dict[str, str]) -> None:
        """Record a refused request, within bounds."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._denied.clear()
        if self._denied.total() < DENIALS_PER_MINUTE and self._denied[actor] < DENIALS_PER_ACTOR:
            self._denied[actor] += 1
            self.append(NewEvent(DENIED_KIND, actor=actor, detail=detail))

    def page(self, cursor: int, limit: int, owner: str | None) -> list[Event]:
        """Events behind `cursor`. Raises `RefusalError` (`cursor-invalid`) for one that was never given out."""
        self.check(cursor)
        return self._store.events(cursor, limit, owner)

    def check(self, cursor: int) -> None:
        """Raises `RefusalError` (`cursor-invalid`) unless `cursor` can be continued from."""
        if not 0 <= cursor <= (last := self.last):
            raise RefusalError(
                ErrorCode.CURSOR_INVALID,
                f"the cursor {cursor} was never given out; the newest is {last}",
                field="cursor",
                remedy="start again with cursor=0",
            )

    async def follow(self, cursor: int, owner: str | None, ping: float) -> AsyncIterator[Event | None]:
        """Events behind `cursor` for ever; None when there was nothing for `ping` seconds.

        Raises `RefusalError` (`too-many-requests`) beyond `MAX_SUBSCRIPTIONS`; ends when the manager stops.
        """
        if self._subscriptions >= MAX_SUBSCRIPTIONS:
            raise RefusalError(
                ErrorCode.TOO_MANY_REQUESTS,
                f"{MAX_SUBSCRIPTIONS} clients follow the events already",
                remedy="ask for pages with ?cursor= instead",
            )
        self._subscriptions += 1
        try:
            while not self._closing:
                news = self._news  # before reading: an event written in between sets this very object
                events = self._store.events(cursor, PAGE, owner)
                for event in events:
                    yield event
                    cursor = event.cursor
                if events:
                    continue
                try:
                    async with asyncio.timeout(ping):
                        await news.wait()
                except TimeoutError:
                    yield None
        finally:
            self._subscriptions -= 1

    def close(self) -> None:
        """End all subscriptions."""
        self._closing = True
        self.announce()
