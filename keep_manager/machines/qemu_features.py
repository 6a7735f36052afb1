"""What a QEMU can do, by its own account: its version, its objects, accelerators and devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keep_manager.errors import ProgramError
from keep_manager.machines.commands import ask

_VERSION: Final = re.compile(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", re.ASCII)
_NAMED: Final = re.compile(r'^name "([^"]+)"', re.MULTILINE)
_WORDS: Final = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class QemuFeatures:
    """One QEMU program."""

    version: tuple[int, int, int]
    objects: frozenset[str]
    accelerators: frozenset[str]
    devices: frozenset[str]

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def qemu_features(qemu: Path) -> QemuFeatures:
    """Ask the program. Raises `ProgramError`."""
    first = ask([str(qemu), "--version"])
    if (version := _VERSION.match(first)) is None:
        raise ProgramError(f"{qemu} is no QEMU: it says {first.strip()[:100]!r}")
    return QemuFeatures(
        version=(int(version[1]), int(version[2]), int(version[3] or 0)),
        objects=_words(ask([str(qemu), "-object", "help"])),
        accelerators=_words(ask([str(qemu), "-accel", "help"])),
        devices=frozenset(_NAMED.findall(ask([str(qemu), "-device", "help"]))),
    )


def _words(listed: str) -> frozenset[str]:
    """The lines of a list that are one word; its headings are more than one."""
    return frozenset(_WORDS.findall(listed))
