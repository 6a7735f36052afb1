"""Checks of what the keep may ask of the kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import time
from pathlib import Path

from keep_loader.probe.results import Check, fact, libc, refused
from keep_protocol.handover import SandboxFact
from keep_protocol.probe import PROBED_MACHINE

_CLONE_NEWUSER = 0x10000000
_CLOCK_REALTIME = 0


def _protect_kernel_modules() -> SandboxFact:
    modules = Path("/usr/lib/modules")
    try:
        seen = modules.exists() and bool(os.listdir(modules))
    except PermissionError:
        seen = False
    refusal = refused("ProtectKernelModules", libc.syscall(ctypes.c_long(175), 0, 0, 0), errno.EPERM)
    return fact("ProtectKernelModules", refusal.holds and not seen, refusal.detail)


def _protect_kernel_logs() -> SandboxFact:
    refusal = refused("ProtectKernelLogs", libc.klogctl(3, None, 0), errno.EPERM)
    seen = [place for place in ("/dev/kmsg", "/proc/kmsg") if os.access(place, os.R_OK)]
    return fact("ProtectKernelLogs", refusal.holds and not seen, " ".join(seen))


def _protect_clock() -> SandboxFact:
    now = (ctypes.c_long * 2)(int(time.time()), 0)
    return refused("ProtectClock", libc.clock_settime(_CLOCK_REALTIME, now), errno.EPERM)


def _protect_hostname() -> SandboxFact:
    return refused("ProtectHostname", libc.sethostname(b"probe", 5), errno.EPERM)


def _restrict_address_families() -> SandboxFact:
    families = [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET]
    if PROBED_MACHINE not in os.environ:
        families.append(socket.AF_VSOCK)
    for family in families:
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EPERM):
                return fact("RestrictAddressFamilies", False, str(error))
        else:
            return fact("RestrictAddressFamilies", False, f"{family.name} can be made")
    return fact("RestrictAddressFamilies", True)


def _restrict_namespaces() -> SandboxFact:
    return refused("RestrictNamespaces", libc.unshare(_CLONE_NEWUSER), errno.EPERM)


def _restrict_realtime() -> SandboxFact:
    priority = ctypes.c_int(1)
    return refused("RestrictRealtime", libc.sched_setscheduler(0, 1, ctypes.byref(priority)), errno.EPERM)


def system_call_architectures() -> SandboxFact:
    # getpid by the 32-bit gate: mov eax, 20; int 0x80; ret. Refused, it returns -EPERM or the process is killed.
    if os.uname().machine != "x86_64":
        return fact("SystemCallArchitectures", True, "no second architecture here")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    result = call()
    return fact("SystemCallArchitectures", result < 0, str(result))


def _system_call_filter() -> SandboxFact:
    # swapoff("/") is @swap, in none of the groups allowed. Without a filter it fails with another error.
    return refused("SystemCallFilter", libc.swapoff(b"/"), errno.EPERM)


def _system_call_error_number() -> SandboxFact:
    return fact("SystemCallErrorNumber", libc.swapoff(b"/") < 0 and ctypes.get_errno() == errno.EPERM)


def address_deny() -> SandboxFact:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"probe", ("127.0.0.1", 9))
        except PermissionError:
            return fact("IPAddressDeny", True)
        except OSError as error:
            return fact("IPAddressDeny", False, str(error))
    return fact("IPAddressDeny", False, "a datagram to loopback was sent")


CHECKS: tuple[Check, ...] = (
    _protect_kernel_modules,
    _protect_kernel_logs,
    _protect_clock,
    _protect_hostname,
    _restrict_address_families,
    _restrict_namespaces,
    _restrict_realtime,
    system_call_architectures,
    _system_call_filter,
    _system_call_error_number,
)


def killed_by_architecture() -> SandboxFact:
    """What it means that the check of SystemCallArchitectures= did not come back."""
    return fact("SystemCallArchitectures", True, "killed")
