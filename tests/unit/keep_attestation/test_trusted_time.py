"""A clock that was set back is refused, with the date that it says and the one that had passed (row 35)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keep_attestation.errors import ClockError
from keep_attestation.trusted_time import PACKAGE_DATE, TOLERANCE, TimeFloor
from keep_attestation.verdict import Check, CollateralDates, Outcome, Verdict
from keep_protocol.evidence import EvidenceKind

SEEN = datetime(2026, 10, 1, 12, tzinfo=UTC)


def verdict(seen: datetime | None, outcome: Outcome = Outcome.PASS) -> Verdict:
    check = Check("tdx.tcb", outcome, "")
    dates = CollateralDates(not_before=seen)
    return Verdict(kind=EvidenceKind.TDX, checks=(check,), facts={}, identity=None, at=SEEN, collateral=dates)


def floor(now: datetime, path: Path | None = None) -> TimeFloor:
    return TimeFloor(path, clock=lambda: now)


def test_a_clock_before_the_package_was_made_is_refused() -> None:
    assert floor(PACKAGE_DATE - TOLERANCE).now() == PACKAGE_DATE - TOLERANCE
    with pytest.raises(ClockError, match="2020-02-02T00:00:00Z, before 2026-07-01T00:00:00Z, the date of this"):
        floor(datetime(2020, 2, 2, tzinfo=UTC)).now()


def test_a_clock_before_the_newest_collateral_accepted_is_refused_with_both_dates() -> None:
    moments = [SEEN + timedelta(days=1), SEEN - timedelta(days=20)]
    clock = TimeFloor(clock=lambda: moments[0])
    clock.learn(verdict(SEEN))
    clock.learn(verdict(SEEN - timedelta(days=5)))
    assert clock.now() == moments.pop(0)
    with pytest.raises(ClockError, match="2026-09-11T12:00:00Z, before 2026-10-01T12:00:00Z, the date of the newest"):
        clock.now()


def test_what_was_refused_or_has_no_dates_teaches_nothing() -> None:
    clock = floor(SEEN - timedelta(days=20))
    clock.learn(verdict(SEEN, Outcome.FAIL))
    clock.learn(verdict(None))
    assert clock.now() == SEEN - timedelta(days=20)


def test_it_outlives_the_process_where_it_has_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "time-floor"
    floor(SEEN, path).learn(verdict(SEEN))
    with pytest.raises(ClockError, match="before 2026-10-01T12:00:00Z, the date of the newest collateral seen, in"):
        floor(SEEN - timedelta(days=1), path).now()
    assert floor(SEEN, path).now() == SEEN


@pytest.mark.parametrize("content", [b"", b"yesterday", b"2026-10-01T12:00:00", b"\xff"])
def test_a_file_that_holds_no_date_is_said(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "time-floor").write_bytes(content)
    with pytest.raises(ClockError, match="time-floor"):
        floor(SEEN, path)


def test_a_date_that_cannot_be_stored_changes_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "time-floor.new").mkdir()
    clock = floor(SEEN, tmp_path / "time-floor")
    clock.learn(verdict(SEEN))
    assert clock.now() == SEEN
