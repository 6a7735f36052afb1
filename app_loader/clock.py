"""The time as records and answers carry it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    return _text(datetime.now(UTC))


def rfc3339(seconds: float) -> str:
    """As `now`, of a time in seconds since 1970."""
    return _text(datetime.fromtimestamp(seconds, UTC))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
