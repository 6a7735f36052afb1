"""Watching: when a keep counts as failed, and that nothing brings it back."""

from __future__ import annotations

from itertools import islice
from typing import cast

from keep_client import (
    ConnectionFailedError,
    KeepClient,
    KeyMismatchError,
    ProtocolError,
    WatchReport,
    WatchState,
    watch_keep,
)

UNREACHABLE = ConnectionFailedError("it cannot be reached")
REFUSED = KeyMismatchError("it shows another key")
VERIFIED, FAILING, FAILED = WatchState.VERIFIED, WatchState.FAILING, WatchState.FAILED


class Shown:
    """What a client that was let in is held to."""

    label = "has the expected key"


class Round:
    """Stands for one connection that ends as it is told; the watch sees no more of a client than this."""

    peer = Shown()

    def __init__(self, outcome: Exception | None) -> None:
        self._outcome = outcome
        self.closed = False

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def verify(self) -> None:
        if self._outcome is not None:
            raise self._outcome


def watched(*outcomes: Exception | None, allowed: int) -> tuple[list[WatchReport], list[float]]:
    """The reports of a watch whose rounds end so, and the pauses between them."""
    rounds = [Round(outcome) for outcome in outcomes]
    left = iter(rounds)
    pauses: list[float] = []
    reports = watch_keep(
        lambda: cast(KeepClient, next(left)), "k", interval=30, failures_allowed=allowed, pause=pauses.append
    )
    found = list(islice(reports, len(rounds)))
    assert all(each.closed for each in rounds[: len(found)])
    return found, pauses


def test_a_keep_that_proves_itself_stays_verified() -> None:
    reports, pauses = watched(None, None, None, allowed=0)
    assert [report.state for report in reports] == [VERIFIED] * 3
    assert pauses == [30, 30]
    assert reports[0].reason == "has the expected key"


def test_it_fails_for_good_when_it_fails_more_often_than_is_allowed() -> None:
    reports, _ = watched(UNREACHABLE, REFUSED, None, None, allowed=1)
    assert [report.state for report in reports] == [FAILING, FAILED]
    assert [report.failures for report in reports] == [1, 2]


def test_no_failure_allowed_means_none() -> None:
    reports, pauses = watched(REFUSED, None, allowed=0)
    assert [report.state for report in reports] == [FAILED]
    assert pauses == []


def test_failures_that_are_allowed_are_forgotten_after_a_success() -> None:
    reports, _ = watched(UNREACHABLE, None, UNREACHABLE, None, allowed=1)
    assert [report.state for report in reports] == [FAILING, VERIFIED, FAILING, VERIFIED]


def test_a_report_tells_a_refused_keep_from_one_that_is_not_reached() -> None:
    reports, _ = watched(UNREACHABLE, REFUSED, ProtocolError("it says something else"), allowed=9)
    assert [report.refused for report in reports] == [False, True, False]
    assert [report.reason for report in reports] == [
        "it cannot be reached",
        "it shows another key",
        "it says something else",
    ]
