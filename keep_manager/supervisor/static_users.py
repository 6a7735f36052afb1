"""Users for keeps that only the private systemd knows: lines of its own copies of passwd(5) and group(5)."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from keep_protocol.names import keep_of_instance

_FIRST = 0x7000_0000
_DIGITS = 7
"""Hex digits of a keep's id that its uid is made of: up to 2^31 - 1, a range that nothing else allocates from."""


class StaticUsers:
    """Users of the keeps of one private instance, and the folders that they own."""

    def __init__(self, runtime: Path) -> None:
        self._files = (runtime / "passwd", runtime / "group")

    def prepare(self, instance: str, folders: dict[Path, int]) -> None:
        """Have a user for the keep, and `folders` that belong to it, each with its mode."""
        self._prepare(f"k-{instance}", uid_of(instance), folders)

    def prepare_broker(self, instance: str, folder: Path) -> None:
        """Have a user for the keep's network broker, to which `folder` belongs."""
        self._prepare(f"n-{instance}", broker_uid_of(instance), {folder: 0o711})

    def _prepare(self, name: str, number: int, folders: dict[Path, int]) -> None:
        lines = (f"{name}:x:{number}:{number}::/:/usr/sbin/nologin\n", f"{name}:x:{number}:\n")
        for file, line in zip(self._files, lines, strict=True):
            if line not in file.read_text():
                # In place: the file is mounted over the machine's own, and a new one would not be.
                with file.open("a") as stream:
                    stream.write(line)
        for folder, mode in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_uid != number:
                shutil.chown(folder, number, number)
            folder.chmod(mode)


def uid_of(instance: str) -> int:
    """The uid, and gid, of a keep; the same for its whole life."""
    _, keep_id = keep_of_instance(instance)
    return _FIRST + int(keep_id[:_DIGITS], 16)


def broker_uid_of(instance: str) -> int:
    """The uid, and gid, of a keep's network broker: another one of the same range."""
    return _FIRST + int(hashlib.sha256(f"n-{instance}".encode()).hexdigest()[:_DIGITS], 16)


def copy_user_files(runtime: Path) -> None:
    """The copies that the instance's namespace mounts over /etc/passwd and /etc/group."""
    for name in ("passwd", "group"):
        shutil.copyfile(f"/etc/{name}", runtime / name)
        os.chmod(runtime / name, 0o644)
