"""A cgroup of our own, at the same path of every hierarchy; cgroups(7)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_KILL_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    mount: Path
    own: Path
    """Where this process is in it, relative to `mount`."""


class CgroupTree:
    """The cgroups named `name` below this process's own.

    systemd uses a v1 controller only where it finds its own path of the `systemd` hierarchy in that controller's
    too. Where this process is deeper in one hierarchy than in others, that deeper path is made in all of them: the
    other way round, its processes would leave a cgroup that somebody put them in.
    """

    def __init__(self, name: str) -> None:
        hierarchies = _hierarchies()
        self._parent = max((hierarchy.own for hierarchy in hierarchies), key=lambda path: len(path.parts))
        self._mounts = tuple(hierarchy.mount for hierarchy in hierarchies if self._parent.is_relative_to(hierarchy.own))
        self._own = {hierarchy.mount: hierarchy.own for hierarchy in hierarchies}
        self._path = self._parent / name

    def create(self) -> list[str]:
        """Make them; returns those that exist now and that a process can be moved into."""
        made = []
        for mount in self._mounts:
            folder = mount / self._path
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                _delegate(folder)
                if os.access(folder / "cgroup.procs", os.W_OK):
                    made.append(str(folder))
        return made

    def empty(self) -> None:
        """Kill every process in them and wait until they are gone."""
        deadline = time.monotonic() + _KILL_TIMEOUT
        while processes := self._processes():
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {sorted(processes)} do not end")
            time.sleep(0.01)

    def remove(self) -> None:
        """Remove them, which must be empty, with all below them and the parents that were made for them."""
        for mount in self._mounts:
            for path, _, _ in os.walk(mount / self._path, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
            folder = self._parent
            while folder != self._own[mount] and folder.parts:
                with contextlib.suppress(OSError):
                    (mount / folder).rmdir()
                folder = folder.parent

    def _processes(self) -> set[int]:
        found: set[int] = set()
        for mount in self._mounts:
            for path, _, _ in os.walk(mount / self._path):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in (Path(path) / "cgroup.procs").read_text().split())
        # 0 stands for processes outside of our pid namespace.
        return found - {0, os.getpid()}


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
