"""Checks of what the keep sees of the machine: files, devices, processes, interfaces."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from keep_loader import sandbox
from keep_loader.probe.results import Check, fact
from keep_protocol.handover import SandboxFact
from keep_protocol.memory_folder import UNIT_MEMORY
from keep_protocol.probe import MANAGER_HOME, OUTSIDE_NAMESPACES, PROBE_DEVICE, PROBED_MACHINE

_SERVICES = ("/run/systemd/resolve", "/run/systemd/private", "/run/dbus", "/run/nscd")
"""Those of InaccessiblePaths=."""


def _protect_system() -> SandboxFact:
    writable = [place for place in ("/usr", "/etc", "/boot", "/var") if _writable(place)]
    return fact("ProtectSystem", not writable, " ".join(writable))


def _writable(place: str) -> bool:
    return Path(place).is_dir() and not os.statvfs(place).f_flag & os.ST_RDONLY


def _private_devices() -> SandboxFact:
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "console"}
    if PROBED_MACHINE in os.environ:
        allowed |= {"kvm", "vhost-vsock", "sev", "nitro_enclaves"}
    extra = [entry.name for entry in Path("/dev").iterdir() if _is_device(entry) and entry.name not in allowed]
    return fact("PrivateDevices", not set(extra) - {"ptmx"}, " ".join(sorted(extra))[:100])


def _is_device(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _device_policy() -> SandboxFact | None:
    try:
        os.close(os.open(Path(os.environ["RUNTIME_DIRECTORY"]) / PROBE_DEVICE, os.O_RDWR))
    except PermissionError:
        return fact("DevicePolicy", True)
    except OSError:
        return None
    return fact("DevicePolicy", False, "a device outside of the list can be opened")


def _own_namespace(name: str, kind: str) -> SandboxFact:
    own = os.readlink(f"/proc/self/ns/{kind}")
    return fact(name, own not in os.environ[OUTSIDE_NAMESPACES].split(), own)


def _private_mounts() -> SandboxFact:
    return _own_namespace("PrivateMounts", "mnt")


def _private_ipc() -> SandboxFact:
    return _own_namespace("PrivateIPC", "ipc")


def _temporary_file_system() -> SandboxFact:
    home = os.environ[MANAGER_HOME]
    held = {"state"} if Path(os.environ["STATE_DIRECTORY"]).is_relative_to(home) else set()
    seen = set(os.listdir(home)) - held
    if not os.path.ismount(UNIT_MEMORY):
        return fact("TemporaryFileSystem", False, f"{UNIT_MEMORY} is no file system of its own")
    return fact("TemporaryFileSystem", not seen, " ".join(sorted(seen))[:100])


def _bind_read_only_paths() -> SandboxFact:
    writable = [folder for folder in sandbox.code_folders() if _writable(str(folder))]
    return fact("BindReadOnlyPaths", not writable, " ".join(map(str, writable)))


def _inaccessible_paths() -> SandboxFact:
    seen = [place for place in _SERVICES if os.access(place, os.R_OK)]
    return fact("InaccessiblePaths", not seen, " ".join(seen))


def _protect_proc() -> SandboxFact:
    foreign = [entry for entry in os.listdir("/proc") if entry.isdigit() and not _same_user(entry)]
    return fact("ProtectProc", not foreign, f"{len(foreign)} processes of others are seen")


def _same_user(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.getuid()
    except FileNotFoundError:
        return True


def _proc_subset() -> SandboxFact:
    extra = [entry for entry in os.listdir("/proc") if not entry.isdigit() and entry not in ("self", "thread-self")]
    return fact("ProcSubset", not extra, " ".join(sorted(extra))[:100])


def _protect_kernel_tunables() -> SandboxFact:
    return fact("ProtectKernelTunables", not _writable("/sys") and not Path("/proc/sys/kernel").exists())


def _protect_control_groups() -> SandboxFact:
    return fact("ProtectControlGroups", not _writable("/sys/fs/cgroup"))


def _cheap(name: str) -> Check:
    def check() -> SandboxFact:
        own = (Path(os.environ["STATE_DIRECTORY"]), Path(os.environ["RUNTIME_DIRECTORY"]))
        return next(fact for fact in sandbox.facts((*sandbox.code_folders(), *own)) if fact.name == name)

    return check


CHECKS: tuple[Check, ...] = (
    _protect_system,
    _cheap("ProtectHome"),
    _cheap("PrivateTmp"),
    _private_devices,
    _device_policy,
    _private_mounts,
    _private_ipc,
    _temporary_file_system,
    _bind_read_only_paths,
    _inaccessible_paths,
    _protect_proc,
    _proc_subset,
    _protect_kernel_tunables,
    _protect_control_groups,
    _cheap("PrivateNetwork"),
)
