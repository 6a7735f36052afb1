"""What the runner gives up before it maps a module, what a run gives up on top, and whether that holds."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from app_loader import landlock, seccomp
from app_loader.errors import ConfinementError
from app_loader.kernel import PR_GET_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS, prctl
from app_loader.plaintext_memory import plaintext_folder
from app_loader.secret_files import memory_parent
from app_loader.wasmtime_binding import library_path
from keep_protocol.handover import SandboxFact

_SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def confine_runner(state: Path) -> tuple[SandboxFact, ...]:
    """Give up new privileges, files, sockets, programs and namespaces, as far as this kernel lets a process do so.

    Left are the interpreter's libraries and the workload to read, the runs' secrets in memory, and the areas for files,
    on disk and in memory.
    Raises `ConfinementError` when not even new privileges can be given up.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    readable = (sys.base_prefix, sys.prefix, *_python_folders(), *_SHARED_LIBRARIES, str(state / "workload"))
    rules = [landlock.Rule(path, landlock.READ) for path in readable]
    rules.append(landlock.Rule("/dev/null", landlock.READ | landlock.Access.WRITE_FILE))
    rules.append(landlock.Rule("/dev/urandom", landlock.READ))
    rules.append(landlock.Rule(str(state / "files"), landlock.WRITE))
    if (memory := memory_parent()) is not None:
        # Where runs have secrets as files; each run is confined to its own folders before it begins.
        rules.append(landlock.Rule(str(memory), landlock.READ))
        # Where they have files in plaintext; the server has made it before the first order.
        rules.append(landlock.Rule(str(plaintext_folder(state)), landlock.WRITE))
    version = landlock.restrict(rules)
    filtered = _install(seccomp.runner_filter)
    return (_privileges_fact(), _landlock_fact(version), _seccomp_fact(filtered))


def prepare_run() -> None:
    """Do ahead what `confine_to_itself` does the same way for all children, so that its forks need not."""
    if seccomp.known_machine():
        seccomp.run_filter(os.getpid())


def confine_to_itself() -> None:
    """Give up all other processes, and making more."""
    _install(lambda: seccomp.run_filter(os.getpid()))


def confine_to_folders(folders: Iterable[landlock.Rule]) -> None:
    """Give up all files but those in the opened `folders`. Raises `ConfinementError`."""
    landlock.restrict(folders)


def _python_folders() -> tuple[str, ...]:
    """Where modules are imported from, which need not be below the prefixes: a checkout, a bind mount."""
    return (*(path for path in sys.path if os.path.isabs(path)), str(library_path().parent))


def _install(program: Callable[[], bytes]) -> bool:
    if not seccomp.known_machine():
        return False
    try:
        seccomp.install(program())
    except ConfinementError:  # a kernel without CONFIG_SECCOMP_FILTER, or a container that forbids the call
        return False
    return True


def _privileges_fact() -> SandboxFact:
    return SandboxFact("runner-no-new-privileges", prctl(PR_GET_NO_NEW_PRIVS, 0) == 1)


def _landlock_fact(version: int) -> SandboxFact:
    """By effect: a file that every Linux has and lets everybody read."""
    if version == 0:
        return SandboxFact("runner-landlock", False, "this kernel has no Landlock")
    try:
        os.close(os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return SandboxFact("runner-landlock", True, f"ABI {version}")
    except OSError as error:
        return SandboxFact("runner-landlock", False, f"cannot be tried: {error}")
    return SandboxFact("runner-landlock", False, "files outside the rules can still be opened")


def _seccomp_fact(filtered: bool) -> SandboxFact:
    """By effect: a socket of a family that needs no rights."""
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            detail = "own filter" if filtered else "filter of the unit"
            return SandboxFact("runner-seccomp", True, detail)
        return SandboxFact("runner-seccomp", False, f"cannot be tried: {error}")
    return SandboxFact("runner-seccomp", False, "sockets can still be made")
