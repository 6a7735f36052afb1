"""A cgroup of our own, at the same path of every hierarchy; cgroups(7)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

_MOUNT = Path("/sys/fs/cgroup")
_KILL_TIMEOUT = 10.0


class CgroupRecord(msgspec.Struct, frozen=True):
    """Which cgroups were made: whoever ends them may be in other ones than whoever made them."""

    folders: tuple[str, ...]
    parents: tuple[str, ...]
    """Made on the way, outermost first."""


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    mount: Path
    own: Path
    """Where this process is in it, relative to `mount`."""


def make_cgroups(name: str) -> CgroupRecord:
    """Make the cgroups named `name` below this process's own, wherever a process may be moved into them.

    systemd uses a v1 controller only where it finds its own path of the `systemd` hierarchy in that controller's
    too. Where this process is deeper in one hierarchy than in others, that deeper path is made in all of them: the
    other way round, its processes would leave a cgroup that somebody put them in.
    """
    hierarchies = _hierarchies()
    parent = max((hierarchy.own for hierarchy in hierarchies), key=lambda path: len(path.parts))
    folders: list[str] = []
    parents: list[str] = []
    for hierarchy in hierarchies:
        folder = hierarchy.mount / parent / name
        if not parent.is_relative_to(hierarchy.own):
            continue
        with contextlib.suppress(OSError):
            missing = [path for path in reversed(folder.parents) if not path.exists()]
            for path in missing:
                path.mkdir()
                parents.append(str(path))
            folder.mkdir(exist_ok=True)
            _delegate(folder)
            if os.access(folder / "cgroup.procs", os.W_OK):
                folders.append(str(folder))
    return CgroupRecord(tuple(folders), tuple(parents))


def empty_cgroups(record: CgroupRecord) -> None:
    """Kill every process in them and wait until they are gone."""
    deadline = time.monotonic() + _KILL_TIMEOUT
    while processes := _processes(record):
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(processes)} do not end")
        time.sleep(0.01)


def remove_cgroups(record: CgroupRecord) -> None:
    """Remove them, which must be empty, with all below them and the parents that were made for them."""
    for folder in record.folders:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
    for parent in reversed(record.parents):
        with contextlib.suppress(OSError):
            Path(parent).rmdir()


def delegated_limits(pid: int) -> frozenset[str]:
    """Which of `memory`, `cpu`, `tasks` the kernel enforces for units of the systemd instance `pid`."""
    limits = {"memory": "memory", "cpu": "cpu", "pids": "tasks"}
    hierarchies = _hierarchies(pid)
    unified = next((hierarchy for hierarchy in hierarchies if hierarchy.mount == _MOUNT), None)
    if unified is not None:
        controllers = (unified.mount / unified.own / "cgroup.controllers").read_text().split()
        return frozenset(limits[name] for name in controllers if name in limits)
    own = max((hierarchy.own for hierarchy in hierarchies), key=lambda path: len(path.parts))
    # On v1, an unprivileged systemd does not touch the cpu controller even where it could.
    names = limits if os.geteuid() == 0 else ("memory", "pids")
    return frozenset(limits[name] for name in names if os.access(_MOUNT / name / own, os.W_OK))


def _processes(record: CgroupRecord) -> set[int]:
    found: set[int] = set()
    for folder in record.folders:
        for path, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (Path(path) / "cgroup.procs").read_text().split())
    # 0 stands for processes outside of our pid namespace.
    return found - {0, os.getpid()}


def _hierarchies(pid: int | None = None) -> list[_Hierarchy]:
    found = []
    for line in Path(f"/proc/{pid or 'self'}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers:
            mount = _MOUNT / controllers.removeprefix("name=")
        else:
            mount = _MOUNT if (_MOUNT / "cgroup.controllers").exists() else _MOUNT / "unified"
        found.append(_Hierarchy(mount, Path(path.removesuffix("/init.scope").lstrip("/"))))
    return found


def _delegate(folder: Path) -> None:
    """Have the controllers that limits need in `folder`, where cgroup v2 permits it.

    It does not where the parent holds processes and is not the real root; moving those is not ours to do.
    """
    control = folder.parent / "cgroup.subtree_control"
    if control.exists():
        for controller in ("memory", "pids", "cpu"):
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")
