"""System calls that Python has no function for, by ctypes; prctl(2), syscall(2)."""

from __future__ import annotations

import ctypes
import os

from app_loader.errors import ConfinementError

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def syscall(number: int, *arguments: int) -> int:
    """The result of a system call, or the negative errno."""
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments)))
    return -ctypes.get_errno() if result == -1 else result


def prctl(option: int, argument: int, second: int = 0) -> int:
    """Raises `ConfinementError`."""
    result = int(_libc.prctl(option, argument, second, 0, 0))
    if result == -1:
        raise ConfinementError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
    return result


def set_name(name: str) -> None:
    """What ps(1) and top(1) show for this thread, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode())
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def die_with(parent: int, signal_number: int) -> None:
    """Let the kernel send this process a signal when its parent ends, and end at once if it has ended already."""
    prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(1)
