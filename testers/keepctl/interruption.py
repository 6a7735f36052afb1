"""Ctrl-C, SIGTERM and SIGHUP as one exception that comes once, so that cleaning up is not interrupted again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The user or the system wants us to end; not an `Exception`, so that nothing takes it for an error."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.status = 128 + signal_number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in this block at the first signal; later ones are ignored until its end."""
    # What is ignored already stays so: nohup(1) relies on it.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """From here on nothing interrupts the block of `interruptible`."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    ignore_signals()
    raise Interrupted(signal_number)
