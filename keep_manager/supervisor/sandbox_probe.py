"""Runs the probe unit of an instance once per unit text, systemd version and boot, and remembers what held."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keep_manager.errors import SupervisorError
from keep_manager.supervisor.bus_client import BusClient, BusError
from keep_manager.supervisor.units import KeepUnit, render_keep_unit, render_machine_unit
from keep_protocol.handover import SandboxFact
from keep_protocol.probe import (
    MANAGER_HOME,
    OUTSIDE_NAMESPACES,
    PROBE_CPU_PERCENT,
    PROBE_DEVICE,
    PROBE_MEMORY,
    PROBE_TASKS,
    PROBED_MACHINE,
)

PROBE_UNIT = "keep-probe.service"
PROBE_INSTANCE = "probe-0000000"
"""Stands for an instance where the name of a user is made of one."""

_TIMEOUT = 60.0
_DEVICES = (Path("/dev/fuse"), Path("/dev/net/tun"))
_LEFT_OUT = (
    "Type",
    "NotifyAccess",
    "ExecStart",
    "Restart",
    "RestartSec",
    "WatchdogSec",
    "FileDescriptorStoreMax",
    "StandardOutput",
    "StandardError",
    "StartLimitIntervalSec",
    "StartLimitBurst",
)
"""Directives of the keep's unit that are about its life; all others are what is tried."""

NOT_DIRECTIVES_OF_A_SANDBOX = frozenset(
    {
        *("Description", "Slice", "Environment", "TimeoutStartSec", "TimeoutStopSec", "KillMode", "OOMPolicy"),
        *("RemoveIPC", "User", "BindPaths", "RuntimeDirectoryPreserve"),
    }
)


class ProbeResult(msgspec.Struct, frozen=True):
    """What the probe unit found, and of what."""

    key: str
    date: str
    facts: tuple[SandboxFact, ...]


def render_probe_unit(
    keep_unit: str, *, home: Path, output: Path, namespaces: tuple[str, ...], machine: bool = False
) -> str:
    """The probe unit: the keep's directives around another command. `machine`: those of a virtual machine's."""
    lines = []
    start = ""
    for line in keep_unit.splitlines():
        name, _, value = line.partition("=")
        if name == "ExecStart":
            start = value.partition(" -c ")[0] + " -m keep_loader.probe"
        if name in _LEFT_OUT or "%t/wasmkeep/hosts/" in line or "%t/wasmkeep/net/" in line:
            continue
        lines.append(
            line.replace("wasmkeep/keeps/%i", "wasmkeep/probe")
            .replace("keep %i", "probe")
            .replace("k-%i", f"k-{PROBE_INSTANCE}")
        )
        if line == "[Service]" and "Type=oneshot" not in lines:
            lines += ["Type=oneshot", f"StandardOutput=append:{output}", f"StandardError=append:{output}.err"]
            lines += [f"MemoryMax={PROBE_MEMORY}", f"TasksMax={PROBE_TASKS}", f"CPUQuota={PROBE_CPU_PERCENT}%"]
            lines.append(f"Environment={OUTSIDE_NAMESPACES}={' '.join(namespaces)!r}")
            if machine:
                lines.append(f"Environment={PROBED_MACHINE}=1")
            lines.append(f"Environment={MANAGER_HOME}={str(home).replace('%', '%%')!r}")
            if device := next((device for device in _DEVICES if device.exists()), None):
                lines.append(f"BindPaths={device}:%t/wasmkeep/probe/{PROBE_DEVICE}")
    # With full privileges, but in the unit's cgroup: the only place from where IPAddressDeny= can be tried. Not before
    # the probe itself: systemd 257 then fails to give that one namespaces of its own.
    executable, _, arguments = start.partition(" ")
    lines.insert(lines.index("Type=oneshot") + 1, f"ExecStart={start}")
    lines.insert(lines.index("Type=oneshot") + 2, f"ExecStartPost=-+{executable} {arguments} outside")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class ProbeFiles:
    """What a probe reads and writes."""

    units: Path
    """A folder that the instance reads units from."""
    output: Path
    record: Path
    """Where the result is remembered."""
    machine_record: Path
    """The same for units of virtual machines."""


async def probe(
    bus: BusClient, *, keep_unit: KeepUnit, machine: bool, files: ProbeFiles, systemd_pid: int, date: str
) -> ProbeResult:
    """What holds for units like `keep_unit` on this instance; what is on record when it was tried before.

    `machine`: for those of virtual machines. Raises `SupervisorError`.
    """
    unit_text = render_machine_unit(keep_unit) if machine else render_keep_unit(keep_unit)
    record = files.machine_record if machine else files.record
    version = (await bus.call("ping")).text
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = hashlib.sha256("\0".join((unit_text, version, boot)).encode()).hexdigest()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(record.read_bytes(), type=ProbeResult)
        if known.key == key:
            return known
    files.output.unlink(missing_ok=True)
    namespaces = tuple(os.readlink(f"/proc/{systemd_pid}/ns/{kind}") for kind in ("mnt", "ipc"))
    unit = files.units / PROBE_UNIT
    unit.write_text(
        render_probe_unit(unit_text, home=keep_unit.home, output=files.output, namespaces=namespaces, machine=machine)
    )
    try:
        answer = await bus.call("start", PROBE_UNIT, timeout=_TIMEOUT)
    except BusError as error:
        raise SupervisorError(f"{PROBE_UNIT} cannot be started: {error}") from error
    finally:
        unit.unlink()
    facts = await asyncio.to_thread(_read, files.output)
    if answer.text != "done" or not facts:
        raise SupervisorError(f"{PROBE_UNIT} ended with `{answer.text}` and {len(facts)} results")
    result = ProbeResult(key=key, date=date, facts=facts)
    record.write_bytes(msgspec.json.encode(result))
    return result


def directives(keep_unit: str) -> list[str]:
    """The names of all directives of a unit's text that make its sandbox and its limits, in order."""
    names = [line.partition("=")[0] for line in keep_unit.splitlines() if "=" in line and line[0].isupper()]
    known = dict.fromkeys(name for name in names if name not in NOT_DIRECTIVES_OF_A_SANDBOX)
    about_life = {*_LEFT_OUT, "RuntimeDirectory", "RuntimeDirectoryMode", "StateDirectory", "StateDirectoryMode"}
    return [name for name in (*known, "MemoryMax", "TasksMax", "CPUQuota") if name not in about_life]


def _read(output: Path) -> tuple[SandboxFact, ...]:
    try:
        lines = output.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(msgspec.json.decode(line, type=SandboxFact) for line in lines)
