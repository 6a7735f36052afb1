"""Takes the supervisor that was asked for; `auto` takes the first that works and says why."""

from __future__ import annotations

import os
from pathlib import Path

from keep_manager.errors import SupervisorError, SupervisorUnavailableError
from keep_manager.supervisor.detached import DetachedSupervisor
from keep_manager.supervisor.install import installed_unit, instance_folders, systemd_version
from keep_manager.supervisor.interface import Supervisor, SupervisorKind, SupervisorPaths
from keep_manager.supervisor.private_instance import PrivateInstance, runtime_directory
from keep_manager.supervisor.sandbox_probe import ProbeFiles
from keep_manager.supervisor.systemd import ForeignInstance, SystemdSupervisor
from keep_manager.supervisor.units import KeepUnit, KeepUser

_LAST_DYNAMIC = 252
"""The last systemd whose user instances, run by root, know DynamicUser=; Debian 13 has 257, and there none works."""

AUTO = "auto"
CHOICES = (AUTO, *(kind.value for kind in SupervisorKind))


async def choose_supervisor(choice: str, home: Path, deployment: str) -> Supervisor:
    """The connected supervisor that `choice` names.

    `auto` tries a systemd that our units are installed in, then a private one, and `detached` last: it bounds and
    seals nothing, so whoever gets it is told. Raises `SupervisorError`.
    """
    if choice != AUTO:
        supervisor = _make(SupervisorKind(choice), home, deployment, f"asked for by --systemd {choice}")
        await supervisor.connect()
        return supervisor
    refusals: list[str] = []
    for kind in SupervisorKind:
        try:
            because = f"; not {'; not '.join(refusals)}" if refusals else ""
            supervisor = _make(kind, home, deployment, f"first that works{because}")
            await supervisor.connect()
        except SupervisorError as error:
            refusals.append(f"{kind.value} ({error})")
        else:
            return supervisor
    raise SupervisorUnavailableError("; ".join(refusals))


def _make(kind: SupervisorKind, home: Path, deployment: str, reason: str) -> Supervisor:
    state = home.resolve() / "state"
    if kind is SupervisorKind.DETACHED:
        return DetachedSupervisor(state, deployment, reason)
    if kind is SupervisorKind.PRIVATE:
        runtime = runtime_directory(deployment)
        paths = SupervisorPaths(runtime / "wasmkeep", state / "wasmkeep" / "keeps", state / "logs")
        keep_unit = KeepUnit(home.resolve(), paths.logs, _private_user())
        instance = PrivateInstance(runtime=runtime, state=state, deployment=deployment, keep_unit=keep_unit)
        return SystemdSupervisor(kind, reason, instance, paths, keep_unit, _probe_files(state / "units", state))
    folders = instance_folders(kind)
    if not installed_unit(kind).exists():
        raise SupervisorUnavailableError(f"its units are not installed; run `keep-manager install --systemd {kind}`")
    user = KeepUser.DYNAMIC if kind is SupervisorKind.SYSTEM else KeepUser.SHARED
    paths = SupervisorPaths(folders.runtime, folders.state / "keeps", folders.logs)
    keep_unit = KeepUnit(home.resolve(), folders.logs, user)
    foreign = ForeignInstance(folders.bus_address)
    return SystemdSupervisor(kind, reason, foreign, paths, keep_unit, _probe_files(folders.units, state))


def _private_user() -> KeepUser:
    if os.geteuid() != 0:
        return KeepUser.SHARED
    return KeepUser.DYNAMIC if systemd_version() <= _LAST_DYNAMIC else KeepUser.STATIC


def _probe_files(units: Path, state: Path) -> ProbeFiles:
    return ProbeFiles(
        units,
        state / "sandbox-probe.jsonl",
        record=state / "sandbox-probe.json",
        machine_record=state / "sandbox-probe-vm.json",
    )
