"""What all checks share: the C library, and how a result is put."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

from keep_protocol.handover import SandboxFact

Check = Callable[[], SandboxFact | None]
"""Tries one directive; None where it cannot be tried on this machine."""

libc = ctypes.CDLL(None, use_errno=True)


def fact(name: str, holds: bool, detail: str = "") -> SandboxFact:
    """The result of trying the directive `name`."""
    return SandboxFact(name, holds, detail)


def refused(name: str, result: int, *expected: int) -> SandboxFact:
    """Whether a system call that returned `result` was refused with one of `expected`."""
    number = ctypes.get_errno()
    if result >= 0:
        return fact(name, False, "the call succeeded")
    return fact(name, number in expected, errno.errorcode.get(number, str(number)))
