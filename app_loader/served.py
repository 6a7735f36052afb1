"""What was asked of the workload, calls or HTTP requests: the newest ones, counters, and failures as events."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import ServedCounts, ServedUsage
from keep_protocol.states import KeepEventKind, ServedOutcome

if TYPE_CHECKING:
    from app_loader.events import Events
    from app_loader.runner_messages import ProcessUsage
    from app_loader.worker_pool import Places
    from keep_protocol.served_api import CallRecord, RequestRecord

MAX_REMEMBERED: Final = 256
MAX_NAME: Final = 256
"""Characters of a function's name or a path that are remembered."""
MAX_MESSAGE: Final = 512
"""Characters of what is remembered of a failure's message."""

_OUTCOMES: Final = {
    ErrorCode.CALL_TRAPPED: ServedOutcome.TRAPPED,
    ErrorCode.CALL_EXITED: ServedOutcome.EXITED,
    ErrorCode.CALL_MEMORY: ServedOutcome.MEMORY,
    ErrorCode.CALL_TIMEOUT: ServedOutcome.TIMEOUT,
    ErrorCode.CALL_LOST: ServedOutcome.LOST,
    ErrorCode.RESULT_TOO_LARGE: ServedOutcome.UNANSWERED,
    ErrorCode.HTTP_TRAPPED: ServedOutcome.TRAPPED,
    ErrorCode.HTTP_EXITED: ServedOutcome.EXITED,
    ErrorCode.HTTP_MEMORY: ServedOutcome.MEMORY,
    ErrorCode.HTTP_TIMEOUT: ServedOutcome.TIMEOUT,
    ErrorCode.HTTP_UNANSWERED: ServedOutcome.UNANSWERED,
    ErrorCode.HTTP_LOST: ServedOutcome.LOST,
}


class Going:
    """One call or request, from when it came to its end. Thousands may come a second, so little is done for each."""

    __slots__ = ("_began", "at", "code", "input", "message", "outcome", "output", "trap", "usage")

    def __init__(self) -> None:
        self.at = time.time()
        """Seconds since 1970."""
        self.input = 0
        """Bytes taken."""
        self.output = 0
        """Bytes given on."""
        self.usage: ServedUsage | None = None
        """Once it is over; None still of one whose turn never came."""
        self.outcome = ServedOutcome.ABANDONED
        """As long as nothing else has become of it."""
        self.code: str | None = None
        self.trap: str | None = None
        self.message: str | None = None
        self._began: float | None = None

    @property
    def begun(self) -> bool:
        """Whether its turn has come."""
        return self._began is not None

    def begin(self) -> None:
        """Its turn has come."""
        self._began = time.monotonic()

    def fail(self, refusal: RefusalError) -> None:
        """Whoever asked is told this."""
        self.outcome = _OUTCOMES.get(refusal.code, ServedOutcome.REFUSED)
        self.code, self.trap = refusal.code.value, refusal.trap
        # Others may tell of what was wrong with arguments, which are not for all who may see that there was a call.
        self.message = refusal.detail[:MAX_MESSAGE] if self.outcome.is_failure else None

    def end(self, used: ProcessUsage | None) -> None:
        """It is over; `used` is None if its process went without a word."""
        if self._began is not None:
            wall = round(time.monotonic() - self._began, 6)
            cpu, memory = (0.0, 0) if used is None else (round(used.cpu, 6), used.memory)
            self.usage = ServedUsage(wall, cpu, memory, self.input, self.output)

    def record(self) -> CallRecord | RequestRecord:
        """Once it is over."""
        raise NotImplementedError


G = TypeVar("G", bound=Going)


class Served(Generic[G]):
    """Of one kind; `failure` is the kind of event that a failure becomes."""

    def __init__(self, events: Events, failure: KeepEventKind) -> None:
        self._events = events
        self._failure = failure
        self._ended: Counter[ServedOutcome] = Counter()
        self.newest: deque[G] = deque(maxlen=MAX_REMEMBERED)
        """In the order of their ends."""

    def add(self, going: G) -> None:
        """One more is over."""
        self._ended[going.outcome] += 1
        self.newest.append(going)
        if going.outcome.is_failure:
            told = msgspec.structs.asdict(going.record())
            del told["at"]
            usage = told.pop("usage")
            self._events.record(self._failure, **told, **({} if usage is None else msgspec.structs.asdict(usage)))

    def counts(self, places: Places | None) -> ServedCounts:
        """Of all that came in this life of the keep."""
        return ServedCounts(
            active=0 if places is None else places.taken,
            waiting=0 if places is None else places.waiting,
            answered=self._ended[ServedOutcome.ANSWERED],
            failed=sum(count for outcome, count in self._ended.items() if outcome.is_failure),
            refused=self._ended[ServedOutcome.REFUSED],
            abandoned=self._ended[ServedOutcome.ABANDONED],
        )
