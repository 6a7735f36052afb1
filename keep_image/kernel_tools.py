"""The programs that Linux is compiled with: the machine's own, since a compiler is more than an image's pins carry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from typing import Final

from keep_image.errors import BuildError

_PACKAGES: Final = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "lz4": "lz4",
    "make": "make",
    "tar": "tar",
    "xz": "xz-utils",
}
"""Debian's packages by the programs in them."""

_LIBRARIES: Final = (("libc6-dev", "#include <stdlib.h>", ()), ("libelf-dev", "#include <gelf.h>", ("-lelf",)))
"""What objtool and other programs of the kernel's own build are linked with."""

_VERSIONED: Final = ("gcc", "ld", "lz4")
"""These write bytes of the kernel."""


def kernel_tools() -> tuple[str, ...]:
    """What the programs that decide a kernel's bytes say of their version. Raises `BuildError`."""
    _refuse_missing([_PACKAGES[program] for program in _VERSIONED if shutil.which(program) is None])
    return tuple(_version(program) for program in _VERSIONED)


def check_tools() -> None:
    """Raises `BuildError`, with the line that installs it, when anything is missing that a kernel is compiled with."""
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if "gcc" not in missing and "binutils" not in missing:
        missing += [package for package, include, options in _LIBRARIES if not _can_link(include, options)]
    _refuse_missing(missing)


def _refuse_missing(packages: list[str]) -> None:
    if packages:
        names = " ".join(packages)
        raise BuildError(f"a kernel of ours needs what this machine does not have: apt-get install {names}")


def _can_link(include: str, options: tuple[str, ...]) -> bool:
    program = f"{include}\nint main(void) {{ return 0; }}\n"
    with tempfile.TemporaryDirectory() as folder:
        command = ["gcc", "-x", "c", "-", "-o", f"{folder}/program", *options]
        return subprocess.run(command, input=program.encode(), capture_output=True).returncode == 0


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise BuildError(f"{program} does not say its version: {done.stderr.strip()[-200:] or done.returncode}")
    return lines[0].strip()
