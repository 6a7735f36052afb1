"""Checks of who the keep is and what it may become."""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import stat
import tempfile
from pathlib import Path

from keep_loader.probe.results import Check, fact, libc, refused
from keep_protocol.handover import SandboxFact

_PER_LINUX32 = 0x0008


def _dynamic_user() -> SandboxFact:
    return fact("DynamicUser", 61184 <= os.getuid() <= 65519, f"uid {os.getuid()}")


def _no_new_privileges() -> SandboxFact:
    status = Path("/proc/self/status").read_text()
    return fact("NoNewPrivileges", "NoNewPrivs:\t1" in status)


def _capability_bounding_set() -> SandboxFact:
    bounding = Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0]
    return fact("CapabilityBoundingSet", int(bounding, 16) == 0, bounding)


def _ambient_capabilities() -> SandboxFact:
    ambient = Path("/proc/self/status").read_text().partition("CapAmb:")[2].split()[0]
    return fact("AmbientCapabilities", int(ambient, 16) == 0, ambient)


def _supplementary_groups() -> SandboxFact:
    extra = sorted(set(os.getgroups()) - {os.getgid()})
    return fact("SupplementaryGroups", not extra, ", ".join(map(_group_name, extra)))


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _umask() -> SandboxFact:
    return fact("UMask", os.umask(0o077) == 0o077)


def _restrict_suid_sgid() -> SandboxFact:
    with tempfile.NamedTemporaryFile(dir=os.environ["STATE_DIRECTORY"]) as file:
        try:
            os.chmod(file.name, 0o4700)
        except PermissionError:
            return fact("RestrictSUIDSGID", True)
        return fact("RestrictSUIDSGID", not Path(file.name).stat().st_mode & stat.S_ISUID)


def _keyring_mode() -> SandboxFact:
    # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING): the filter refuses it, or it is a keyring of our own.
    result = libc.syscall(ctypes.c_long(250), 0, -3, 0)
    if result < 0:
        return fact("KeyringMode", True, errno.errorcode.get(ctypes.get_errno(), ""))
    keys = Path("/proc/keys")
    listed = keys.read_text() if keys.exists() else ""
    return fact("KeyringMode", "_uid_ses" not in listed, f"keyring {result}")


def _lock_personality() -> SandboxFact:
    return refused("LockPersonality", libc.personality(_PER_LINUX32), errno.EPERM)


def _private_users() -> SandboxFact:
    lines = Path("/proc/self/uid_map").read_text().split()
    return fact("PrivateUsers", lines != ["0", "0", "4294967295"], " ".join(lines))


CHECKS: tuple[Check, ...] = (
    _dynamic_user,
    _no_new_privileges,
    _capability_bounding_set,
    _ambient_capabilities,
    _supplementary_groups,
    _umask,
    _restrict_suid_sgid,
    _keyring_mode,
    _lock_personality,
    _private_users,
)
