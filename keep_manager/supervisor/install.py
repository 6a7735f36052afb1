"""Puts the unit files where the system manager or the user's own systemd reads them, and takes them away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from keep_manager.errors import SupervisorError, SupervisorUnavailableError
from keep_manager.supervisor.interface import SupervisorKind
from keep_manager.supervisor.units import KeepUnit, KeepUser, render_manager_unit, write_units

_STATE_HOME_SINCE = 254
"""The systemd in which %S of a user instance moved from ~/.config to ~/.local/state; systemd.unit(5)."""


@dataclass(frozen=True, slots=True)
class InstanceFolders:
    """Where an instance that is not ours reads units and keeps our files."""

    bus_address: Path
    units: Path
    runtime: Path
    state: Path
    logs: Path


def instance_folders(kind: SupervisorKind) -> InstanceFolders:
    """The folders of the system manager or of the caller's user manager. Raises `SupervisorUnavailableError`."""
    if kind is SupervisorKind.SYSTEM:
        if os.geteuid() != 0:
            raise SupervisorUnavailableError("the system manager takes units from root only")
        if not Path("/run/systemd/system").is_dir():
            raise SupervisorUnavailableError("this machine was not booted with systemd")
        return InstanceFolders(
            Path("/run/systemd/private"),
            Path("/etc/systemd/system"),
            Path("/run/wasmkeep"),
            Path("/var/lib/wasmkeep"),
            Path("/var/log/wasmkeep"),
        )
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not (runtime / "systemd" / "private").exists():
        raise SupervisorUnavailableError(f"no `systemd --user` listens at {runtime}/systemd/private")
    home = Path.home()
    if systemd_version() >= _STATE_HOME_SINCE:
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state")
    else:
        state = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return InstanceFolders(
        runtime / "systemd" / "private",
        configuration / "systemd" / "user",
        runtime / "wasmkeep",
        state / "wasmkeep",
        state / "wasmkeep" / "logs",
    )


def installed_unit(kind: SupervisorKind) -> Path:
    """The keep template of an instance, whether it exists or not."""
    return instance_folders(kind).units / "keep@.service"


def install(kind: str, home: Path) -> list[Path]:
    """Write the units for `kind` and have its systemd read them; returns the files.

    `private` and `detached` need no installation. Raises `SupervisorError`.
    """
    folders = instance_folders(_installable(kind))
    system = kind == SupervisorKind.SYSTEM
    manager_unit = render_manager_unit(home=home.resolve(), kind=kind)
    keep_unit = KeepUnit(home.resolve(), folders.logs, KeepUser.DYNAMIC if system else KeepUser.SHARED)
    write_units(folders.units, targets={"keep-manager.service": manager_unit}, unit=keep_unit)
    _reload(system)
    return _unit_files(folders)


def uninstall(kind: str, home: Path) -> list[Path]:
    """Remove what `install` wrote; keeps and their state stay. Returns the files."""
    folders = instance_folders(_installable(kind))
    removed = [file for file in _unit_files(folders) if file.exists()]
    for file in removed:
        file.unlink()
    _reload(kind == SupervisorKind.SYSTEM)
    return removed


def _installable(kind: str) -> SupervisorKind:
    if kind not in (SupervisorKind.SYSTEM, SupervisorKind.USER):
        raise SupervisorError(f"--systemd {kind}: only `system` and `user` have unit files to install")
    return SupervisorKind(kind)


def _unit_files(folders: InstanceFolders) -> list[Path]:
    return [
        folders.units / name
        for name in (
            *("keep@.service", "keep-vm@.service", "keep-net@.service"),
            *("keeps.slice", "keep-manager.service"),
        )
    ]


def _reload(system: bool) -> None:
    scope = [] if system else ["--user"]
    result = subprocess.run(["systemctl", *scope, "daemon-reload"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SupervisorError(f"systemctl {' '.join(scope)} daemon-reload: {result.stderr.strip()}")


def systemd_version() -> int:
    """The version of the systemd that is installed. Raises `SupervisorUnavailableError` when there is none."""
    if shutil.which("systemctl") is None:
        raise SupervisorUnavailableError("systemctl is not installed; install the package `systemd`")
    output = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    return int(output.split()[1])
