"""Landlock: a process gives up all of the file system but what it names; landlock(7)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag

import msgspec

from app_loader.errors import ConfinementError
from app_loader.kernel import PR_SET_NO_NEW_PRIVS, prctl, syscall

# The same numbers on every architecture.
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


class Access(IntFlag):
    """LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SYM
    | Access.REFER
    | Access.TRUNCATE
)

_FILE_RIGHTS = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
"""A rule for a file may name no others."""

_NEWEST_RIGHT = {1: Access.MAKE_SYM, 2: Access.REFER, 3: Access.TRUNCATE, 4: Access.TRUNCATE}
"""By ABI; from 5 on it is IOCTL_DEV."""

_NETWORK_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


class Rule(msgspec.Struct, frozen=True):
    """What stays allowed at and beneath a path, which is a name or an open descriptor."""

    path: str | int
    access: Access


def abi() -> int:
    """The version that the kernel speaks; 0 without Landlock."""
    return max(0, syscall(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION))


def _handled(version: int) -> Access:
    """All rights that this kernel knows; those of a later version it would refuse."""
    newest = _NEWEST_RIGHT.get(version, Access.IOCTL_DEV)
    return Access((newest << 1) - 1)


def restrict(rules: Iterable[Rule]) -> int:
    """Confine this process and its future children for good, on top of what confines them already.

    Also no TCP (from ABI 4) and no signals or abstract sockets to processes outside (from ABI 6). Returns the ABI;
    0 means that nothing happened, because this kernel has no Landlock. Paths that don't exist are left out.
    Raises `ConfinementError`.
    """
    version = abi()
    if version == 0:
        return 0
    handled = _handled(version)
    attributes = struct.pack(
        "=QQQ",
        handled,
        _NETWORK_BIND_AND_CONNECT if version >= 4 else 0,
        _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = syscall(_CREATE_RULESET, ctypes.addressof(buffer), size, 0)
    if ruleset < 0:
        raise ConfinementError(f"Landlock made no ruleset: {os.strerror(-ruleset)}")
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if (result := syscall(_RESTRICT_SELF, ruleset, 0)) < 0:
            raise ConfinementError(f"Landlock did not take effect: {os.strerror(-result)}")
    finally:
        os.close(ruleset)
    return version


def _add(ruleset: int, rule: Rule, handled: Access) -> None:
    if isinstance(rule.path, int):
        _add_descriptor(ruleset, rule.path, rule.access & handled)
        return
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _add_descriptor(ruleset, descriptor, rule.access & handled)
    finally:
        os.close(descriptor)


def _add_descriptor(ruleset: int, descriptor: int, access: Access) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        access &= _FILE_RIGHTS
    attributes = struct.pack("=Qi", access, descriptor)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    if (result := syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.addressof(buffer), 0)) < 0:
        raise ConfinementError(f"Landlock refused a rule: {os.strerror(-result)}")
