"""Tests of `testers.keepctl.exit_status`."""

from __future__ import annotations

import pytest

from keep_protocol.keep_api import RunExit
from keep_protocol.states import ExitReason
from testers.keepctl.exit_status import exit_status, explanation


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (RunExit(ExitReason.CODE, 0), 0),
        (RunExit(ExitReason.CODE, 7), 7),
        (RunExit(ExitReason.CODE, 200), 200),
        (RunExit(ExitReason.CODE, 255), 255),
        (RunExit(ExitReason.CODE, 258), 2),
        (RunExit(ExitReason.CODE, 256), 1),
        (RunExit(ExitReason.CODE, 2**32 - 1), 255),
        (RunExit(ExitReason.CODE), 125),
        (RunExit(ExitReason.TRAP), 134),
        (RunExit(ExitReason.TIMEOUT), 124),
        (RunExit(ExitReason.MEMORY), 137),
        (RunExit(ExitReason.STOPPED), 143),
        (RunExit(ExitReason.OUTPUT_LIMIT), 125),
        (RunExit(ExitReason.LOST), 125),
    ],
)
def test_every_end_has_its_status(ended: RunExit, status: int) -> None:
    assert exit_status(ended) == status


def test_a_code_that_fits_needs_no_words() -> None:
    assert explanation(RunExit(ExitReason.CODE, 255)) == ""


def test_a_code_that_does_not_fit_is_told() -> None:
    words = explanation(RunExit(ExitReason.CODE, 256))
    assert words == "the guest exited with 256, which does not fit: the status is 1"


def test_a_trap_is_told_with_its_backtrace_and_without_control_characters() -> None:
    ended = RunExit(ExitReason.TRAP, trap="unreachable", message="bad\x1b[31m", backtrace=("0: main", "1: _start"))
    assert explanation(ended) == ("the guest trapped: unreachable: bad\\x1b[31m\n    0: main\n    1: _start")
