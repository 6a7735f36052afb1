"""The memory of a keep: what all its processes have for themselves alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

_SETTLED = 0.5
"""Seconds without a change after which a keep is taken to be idle."""
_GIVEN_BACK = 6.0
_NOISE = 0.5
"""MB by which the share of pages changes that other processes have, too."""
_PATIENCE = 30.0


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    found = [pid]
    try:
        children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in children.split():
        found += tree(int(child))
    return found


def unshared_memory(processes: Iterable[int]) -> float:
    """USS of all these processes in MiB: Private_Clean and Private_Dirty, proc_pid_smaps(5)."""
    return sum(_kibibytes(pid, ("Private_Clean:", "Private_Dirty:")) for pid in processes) / 1024


def resident_memory(processes: Iterable[int]) -> float:
    """Pss of all these processes in MB (10^6 bytes): all that is resident, what is shared by its share."""
    return sum(_kibibytes(pid, ("Pss:",)) for pid in processes) * 1024 / 1e6


def settled_resident_memory(processes: Callable[[], Iterable[int]]) -> float:
    """Their PSS in MB when it has not fallen for a while: a machine gives memory back seconds after it is ready."""
    lowest, began = resident_memory(processes()), time.monotonic()
    fell = began
    while time.monotonic() - fell < _GIVEN_BACK and time.monotonic() - began < _PATIENCE:
        time.sleep(_SETTLED)
        if (now := resident_memory(processes())) < lowest - _NOISE:
            lowest, fell = now, time.monotonic()
    return resident_memory(processes())


def settled_memory(processes: Callable[[], Iterable[int]]) -> float:
    """Their USS in MiB when it has not changed for a while: what a keep does after it is ready is over then."""
    last, began = unshared_memory(processes()), time.monotonic()
    changed = began
    while time.monotonic() - changed < _SETTLED:
        time.sleep(_SETTLED / 10)
        if (now := unshared_memory(processes())) != last:
            last, changed = now, time.monotonic()
        if time.monotonic() - began > _PATIENCE:
            raise RuntimeError(f"the memory of an idle keep still changes after {_PATIENCE:g} s")
    return last


def _kibibytes(pid: int, fields: tuple[str, ...]) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended since
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields))
