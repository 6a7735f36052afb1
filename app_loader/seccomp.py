"""A seccomp filter without a library: system calls that are refused with EPERM; seccomp(2), classic BPF."""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct
from collections.abc import Iterable

import msgspec

from app_loader.kernel import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

_MODE_FILTER = 2
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

# Offsets in `struct seccomp_data`; both architectures are little-endian, so an argument's low half comes first.
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENT = 16

# BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ, BPF_JMP|BPF_JGE, BPF_JMP|BPF_JSET, BPF_RET, all with BPF_K.
_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06

_X32_BIT = 0x40000000

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# (x86_64, aarch64): unistd_64.h and asm-generic/unistd.h.
_NUMBERS: dict[str, tuple[int, int]] = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "listen": (50, 201),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_FORKS: dict[str, tuple[int, ...]] = {"x86_64": (57, 58), "aarch64": ()}  # fork, vfork
_PORTS_AND_SEGMENTS: dict[str, tuple[int, ...]] = {"x86_64": (172, 173, 154), "aarch64": ()}  # iopl, ioperm, modify_ldt

_CLONE_NEW_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x00010000

# Everything that makes sockets, programs, other processes' memory, mounts, namespaces or kernel state reachable.
# The runner talks over a socket it has already, so sendmsg and recvmsg stay; tokio makes a socketpair.
_NEVER = frozenset(_NUMBERS) - {
    "clone",
    "clone3",
    "kill",
    "pidfd_open",
    "pidfd_send_signal",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "tgkill",
    "tkill",
}
_NOT_IN_A_RUN = frozenset({"kill", "pidfd_open", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill"})


class _Instruction(msgspec.Struct, frozen=True):
    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0

    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.operand)


_ALLOWED = [_Instruction(_RETURN, _ALLOW)]


def known_machine() -> bool:
    """Whether this machine's system call numbers are known here."""
    return platform.machine() in _AUDIT_ARCHITECTURE


def runner_filter() -> bytes:
    """For the runner and all that it starts: no sockets, no programs, no namespaces, no peeking."""
    return _packed(
        _head(),
        _refuse(_number(name) for name in sorted(_NEVER)),
        _refuse(_PORTS_AND_SEGMENTS[platform.machine()]),
        # The flags of clone3 are in memory, out of a filter's reach; without it libc falls back to clone.
        _refuse((_number("clone3"),), errno.ENOSYS),
        _refuse_clone(_Instruction(_ANY_BIT, _CLONE_NEW_NAMESPACES, 0, 1)),
        _ALLOWED,
    )


def run_filter(pid: int) -> bytes:
    """On top of that for one run, whose process is `pid`: no further processes, signals to itself only."""
    return _run_filter_head() + _packed(_conditionally("tgkill", _Instruction(_EQUAL, pid, 1, 0)), _ALLOWED)


@functools.cache
def _run_filter_head() -> bytes:
    return _packed(
        _head(),
        _refuse(_number(name) for name in sorted(_NOT_IN_A_RUN)),
        _refuse(_FORKS[platform.machine()]),
        _refuse_clone(_Instruction(_ANY_BIT, _CLONE_THREAD, 1, 0)),
    )


def install(program: bytes) -> None:
    """Put this process and its future children under a filter for good. Raises `ConfinementError`."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    buffer = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(buffer))


def _number(name: str) -> int:
    on_x86, on_arm = _NUMBERS[name]
    return on_x86 if platform.machine() == "x86_64" else on_arm


def _head() -> list[_Instruction]:
    """Another architecture's numbers would mean other calls, so its calls are fatal."""
    machine = platform.machine()
    head = [
        _Instruction(_LOAD, _ARCHITECTURE),
        _Instruction(_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        _Instruction(_RETURN, _KILL_PROCESS),
        _Instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        head += [_Instruction(_AT_LEAST, _X32_BIT, 0, 1), _Instruction(_RETURN, _ERRNO | errno.EPERM)]
    return head


def _packed(*parts: list[_Instruction]) -> bytes:
    return b"".join(instruction.packed() for part in parts for instruction in part)


def _refuse(numbers: Iterable[int], error: int = errno.EPERM) -> list[_Instruction]:
    return [
        instruction
        for number in numbers
        for instruction in (_Instruction(_EQUAL, number, 0, 1), _Instruction(_RETURN, _ERRNO | error))
    ]


def _refuse_clone(test: _Instruction) -> list[_Instruction]:
    return _conditionally("clone", test)


def _conditionally(name: str, test: _Instruction) -> list[_Instruction]:
    """Refuse a call when `test` of its first argument falls through to the next instruction."""
    return [
        _Instruction(_EQUAL, _number(name), 0, 4),
        _Instruction(_LOAD, _ARGUMENT),
        test,
        _Instruction(_RETURN, _ERRNO | errno.EPERM),
        _Instruction(_LOAD, _NUMBER),
    ]
