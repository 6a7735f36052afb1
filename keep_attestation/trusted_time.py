"""A clock that cannot be turned back unnoticed: not before what hardware makers are known to have signed already.

Who sets a verifier's clock back makes expired collateral and certificates valid again, whose flaws are known by now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from keep_attestation.errors import ClockError
from keep_attestation.verdict import Verdict

PACKAGE_DATE: Final = datetime(2026, 7, 1, tzinfo=UTC)
"""No copy of this package is older: it implements RFC 9999, of July 2026."""
TOLERANCE: Final = timedelta(minutes=5)
"""By how much two clocks that are both right may differ."""


class TimeFloor:
    """The latest moment that is known to have passed; for use by several threads.

    With `path` it outlives the process, in a file that nobody else should be able to write.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Raises `ClockError` for a file that holds no date."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._floor, self._reason = PACKAGE_DATE, "the date of this package"
        if path is not None and (stored := _read(path)) is not None and stored > self._floor:
            self._floor, self._reason = stored, f"the date of the newest collateral seen, in {path}"

    def now(self) -> datetime:
        """The clock's time. Raises `ClockError`, which names both dates, when it is before the floor."""
        now = self._clock()
        with self._lock:
            if now < self._floor - TOLERANCE:
                raise ClockError(
                    f"this machine's clock says {now:%Y-%m-%dT%H:%M:%SZ}, before {self._floor:%Y-%m-%dT%H:%M:%SZ},"
                    f" {self._reason}: it is wrong or was set back, so nothing is judged by it; set it right"
                )
        return now

    def learn(self, verdict: Verdict) -> None:
        """Raise the floor by the dates that an accepted verdict rests on: their signers' clocks had come so far."""
        seen = verdict.collateral.not_before
        if not verdict.accepted or seen is None:
            return
        with self._lock:
            if seen <= self._floor:
                return
            self._floor, self._reason = seen, "the date of the newest collateral seen"
            if self._path is not None:
                # A verdict does not depend on what can be remembered of it.
                with suppress(OSError):
                    _write(self._path, seen)


def _read(path: Path) -> datetime | None:
    try:
        text = path.read_text("ascii").strip()
        stored = datetime.fromisoformat(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClockError(f"{path}, which holds the latest moment that is known to have passed: {error}") from None
    if stored.tzinfo is None:
        raise ClockError(f"{path} holds {text!a}, which is no date with a time zone: remove it")
    return stored


def _write(path: Path, moment: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(f"{moment.isoformat()}\n", "ascii")
    temporary.replace(path)
