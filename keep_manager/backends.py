"""What can isolate keeps on this host, and what is missing where one cannot."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path

from keep_manager.hardware import attesters, sgx_backend
from keep_manager.machines.checks import failed_check
from keep_manager.supervisor.interface import Supervisor, SupervisorKind
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import BackendInfo, Check
from keep_protocol.states import Backend

_LANDLOCK_CREATE_RULESET = 444
"""The same number on every architecture; landlock_create_ruleset(2)."""
_LANDLOCK_VERSION = 1

_REQUIRED = frozenset({"python", "wasmtime", "supervisor"})
"""Without these no keep starts. Where another check fails, keeps start and say what does not hold."""


def backends(supervisor: Supervisor, machines: tuple[BackendInfo, ...]) -> tuple[BackendInfo, ...]:
    """Every backend with its checks; `machines` are those of virtual machines."""
    checks = process_checks(supervisor)
    available = all(check.passed for check in checks if check.name in _REQUIRED)
    return (BackendInfo(Backend.PROCESS, available, checks), *machines, sgx_backend())


def check_backend(backend: Backend, supervisor: Supervisor, machines: tuple[BackendInfo, ...]) -> None:
    """Raises `RefusalError` (`backend-unavailable`) when keeps of this backend cannot start here."""
    for info in backends(supervisor, machines):
        if info.name is backend:
            if not info.available:
                failed = _deciding(info)
                raise RefusalError(
                    ErrorCode.BACKEND_UNAVAILABLE,
                    f"the backend {backend} does not work on this host: {failed.name}: {failed.message}",
                    field="spec.backend",
                    remedy="see GET /v1/backends",
                )
            return
    raise RefusalError(ErrorCode.BACKEND_UNAVAILABLE, f"this manager has no backend {backend}", field="spec.backend")


def check_evidence(kind: EvidenceKind | None, tpm: Path | None) -> None:
    """Raises `RefusalError` (`backend-unavailable`) when process keeps cannot make this kind of evidence here."""
    for info in attesters(tpm):
        if info.kind is kind and not info.available:
            failed = next(check for check in info.checks if not check.passed)
            raise RefusalError(
                ErrorCode.BACKEND_UNAVAILABLE,
                f"keeps on this host cannot make {kind} evidence: {failed.message}",
                field="spec.evidence",
                remedy="see GET /v1/backends",
            )


def _deciding(info: BackendInfo) -> Check:
    """The check for whose sake a backend is not available."""
    if info.name.is_machine and (failed := failed_check(info)) is not None:
        return failed
    required = _REQUIRED if info.name is Backend.PROCESS else {check.name for check in info.checks}
    return next(check for check in info.checks if not check.passed and check.name in required)


def process_checks(supervisor: Supervisor) -> tuple[Check, ...]:
    """What `process` keeps rest on: a unit of systemd with wasmtime in it."""
    return (
        *host_checks(),
        Check(
            "supervisor",
            supervisor.alive,
            f"{supervisor.kind.value}: {supervisor.reason}",
            "" if supervisor.alive else "it does not answer; look at its processes",
        ),
        _promise(
            "limits",
            {"memory", "cpu", "tasks"} <= supervisor.promises.limits,
            f"enforced: {', '.join(sorted(supervisor.promises.limits)) or 'none'}",
            "the kernel does not enforce all limits; run where cgroups are writable or delegated",
        ),
        _promise(
            "sandbox",
            supervisor.promises.sandbox,
            "units are sandboxed by systemd",
            "this supervisor has no sandbox for units; use one of systemd's",
        ),
        _promise(
            "own-user",
            supervisor.promises.own_uid,
            "every keep has a user of its own",
            "keeps share a user; use the system manager as root where keeps have several owners",
        ),
    )


def host_checks() -> tuple[Check, ...]:
    """What can be seen without a supervisor."""
    return _python(), _wasmtime(), _systemd(), _landlock(), _seccomp()


def _python() -> Check:
    passed = sys.version_info >= (3, 11)
    return Check("python", passed, platform.python_version(), "" if passed else "install Python 3.11 or later")


def _wasmtime() -> Check:
    # Not imported: it would cost the manager tens of megabytes for ever.
    if importlib.util.find_spec("wasmtime") is None:
        return Check("wasmtime", False, "", "install the package `wasmtime` into the manager's environment")
    return Check("wasmtime", True, importlib.metadata.version("wasmtime"))


def _systemd() -> Check:
    paths = [Path(folder, "systemd") for folder in ("/usr/lib/systemd", "/lib/systemd")]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        kinds = ", ".join(kind for kind in SupervisorKind if kind is not SupervisorKind.DETACHED)
        return Check("systemd", False, "", f"install the package `systemd`: {kinds} need it")
    return Check("systemd", True, str(found))


def _landlock() -> Check:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        reason = os.strerror(ctypes.get_errno())
        return Check("landlock", False, reason, "use a kernel with Landlock enabled (5.13 or later, lsm=landlock,…)")
    return Check("landlock", True, f"ABI {version}")


def _seccomp() -> Check:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.exists():
        return Check("seccomp", False, "", "use a kernel with CONFIG_SECCOMP_FILTER")
    return Check("seccomp", True, "filters are available")


def _promise(name: str, holds: bool, info: str, message: str) -> Check:
    return Check(name, holds, info if holds else "", "" if holds else message)
