"""Runs pinned programs from their unpacked packages: what a build needs must not depend on the machine's own."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from keep_image.archives import Member
from keep_image.errors import BuildError

_LIBRARIES: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LOADER: Final = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


class Toolchain:
    """The packages unpacked below `root`, with their own dynamic loader."""

    def __init__(self, root: Path, members: Iterable[Member], python: str) -> None:
        """Unpacks. Raises `BuildError` on a machine that cannot run programs for x86-64 Linux."""
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise BuildError(
                f"images are built on x86-64 Linux, this is {platform.system()} on {platform.machine()}: "
                "build on such a machine and copy the image's folder; the same pins give the same image"
            )
        self._root = root
        self._python = f"usr/bin/python{python}"
        for member in members:
            _unpack(root, member)

    def run_python(self, script: Path, arguments: Sequence[str], *, path: Iterable[Path] = ()) -> bytes:
        """Run a script with the guest's Python; its standard output. Raises `BuildError`."""
        environment = {
            "PYTHONHOME": str(self._root / "usr"),
            # Sets of strings in code would otherwise be marshalled in an order of their own in every build.
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
        }
        return self._run(self._python, ["-s", "-S", "-B", str(script), *arguments], b"", environment)

    def compress(self, content: bytes) -> bytes:
        """LZ4 in the old frame format, which is the one that Linux unpacks an initramfs from."""
        return self._run("usr/bin/lz4", ["-l", "-9", "--stdout", "-"], content, {})

    def _run(self, program: str, arguments: Sequence[str], given: bytes, environment: Mapping[str, str]) -> bytes:
        libraries = ":".join(str(self._root / folder) for folder in _LIBRARIES)
        command = [str(self._root / _LOADER), "--library-path", libraries, str(self._root / program), *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, env={"LC_ALL": "C.UTF-8", **environment})
        except OSError as error:
            raise BuildError(f"the pinned {program} cannot be run: {error}") from None
        if done.returncode != 0:
            raise BuildError(f"the pinned {program} failed: {done.stderr.decode(errors='replace').strip()[-2000:]}")
        return done.stdout


def _unpack(root: Path, member: Member) -> None:
    target = root / member.path
    if not target.resolve().is_relative_to(root.resolve()):
        raise BuildError(f"a package has the path {member.path!r}, which leads out of it")
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.is_link:
        os.symlink(member.content, os.fsencode(target))
        return
    target.write_bytes(member.content)
    target.chmod(0o755 if member.is_executable else 0o644)
