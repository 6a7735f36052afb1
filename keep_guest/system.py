"""System calls of an init that Python has no function for, by ctypes: mount(2), finit_module(2), reboot(2)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from keep_guest.errors import SystemCallError

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024

_FINIT_MODULE: Final = 313
"""On x86-64, the only machine that images are built for."""
_EEXIST: Final = 17
_ENODEV: Final = 19

_RB_POWER_OFF: Final = 0x4321FEDC
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str, flags: int, options: str = "", source: str | None = None) -> None:
    """Mount a file system of the kernel's own, or that of the device `source`. Raises `SystemCallError`."""
    names = (name.encode() for name in (source or kind, target, kind))
    if _libc.mount(*names, ctypes.c_ulong(flags), options.encode()) != 0:
        raise _failure(f"mounting {kind} on {target}")


def load_module(path: Path) -> bool:
    """Whether the module is in the kernel now; not where the hardware that it drives is missing.

    Raises `SystemCallError`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(_FINIT_MODULE, descriptor, b"", 0) == 0 or ctypes.get_errno() == _EEXIST:
            return True
        if ctypes.get_errno() == _ENODEV:
            return False
        raise _failure(f"loading {path.name}")
    finally:
        os.close(descriptor)


def power_off() -> None:
    """End the machine. Raises `SystemCallError`."""
    os.sync()
    _libc.reboot(ctypes.c_int(_RB_POWER_OFF))
    raise _failure("powering off")


def become(user: int) -> None:
    """Give up root for `user`, and with it every capability; for user 0, the capabilities alone.

    Raises `OSError` or `SystemCallError`.
    """
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break  # the kernel knows no further ones
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise _failure("giving up capabilities")
    # A process that has changed its user cannot open its own /proc/self otherwise.
    for option in (_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS):
        if _libc.prctl(option, ctypes.c_ulong(1), 0, 0, 0) != 0:
            raise _failure(f"prctl({option})")


def _failure(what: str) -> SystemCallError:
    return SystemCallError(f"{what} failed: {os.strerror(ctypes.get_errno())}")
