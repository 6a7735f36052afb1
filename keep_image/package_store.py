"""Fetches pinned packages once, checks them by SHA-256 and keeps them by it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from keep_image.errors import PackageError
from keep_image.pins import DebianPackage, Pins, Wheel

_APT_HELPER: Final = "/usr/lib/apt/apt-helper"
_WHEEL_PLATFORMS: Final = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
_BLOCK: Final = 1024 * 1024


def default_cache() -> Path:
    """Where packages are kept between builds: `$XDG_CACHE_HOME/wasmkeep/packages`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wasmkeep" / "packages"


class PackageStore:
    """Pinned packages as files. What is in the cache already needs no network.

    Debian packages come from the archives that this machine's apt is configured for, wheels from pip's index: wasmkeep
    names neither. `folder` may hold files under their own names, for machines without network or without apt.
    """

    def __init__(self, cache: Path, *, folder: Path | None = None) -> None:
        self._cache = cache
        self._folder = folder

    def package(self, pin: DebianPackage) -> Path:
        """The file of a Debian package. Raises `PackageError`."""
        return self._get(pin.name, pin.file_name, pin.sha256, lambda target: _download_package(pin, target))

    def wheel(self, pin: Wheel, pins: Pins) -> Path:
        """The file of a wheel. Raises `PackageError`."""
        return self._get(pin.name, pin.file_name, pin.sha256, lambda target: _download_wheel(pin, pins.python, target))

    def _get(self, name: str, file_name: str, digest: str, download: Callable[[Path], None]) -> Path:
        kept = self._cache / f"{digest}-{file_name}"
        if kept.is_file() and sha256_of(kept) == digest:
            return kept
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix="new-") as new:
            target = Path(new) / file_name
            if self._folder is not None and (given := self._folder / file_name).is_file():
                target.write_bytes(given.read_bytes())
            else:
                download(target)
            if (found := sha256_of(target)) != digest:
                raise PackageError(f"{name}: {file_name} has the SHA-256 {found}, pinned is {digest}")
            # Two builds at once fetch the same file; the last one wins, and both are right.
            target.replace(kept)
        return kept


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _download_package(pin: DebianPackage, target: Path) -> None:
    failures = []
    for archive in _archives():
        # apt's own helper: proxies, credentials and odd transports are as this machine has them configured.
        address = f"{archive.rstrip('/')}/{pin.path}"
        done = _run([_APT_HELPER, "download-file", address, str(target), f"SHA256:{pin.sha256}"])
        if done.returncode == 0 and target.is_file():
            return
        failures.append(f"{archive}: {_last_line(done)}")
    raise PackageError(
        f"{pin.name} {pin.version} is in none of apt's archives ({'; '.join(failures) or 'none is configured'}): "
        f"give {pin.file_name} in a folder with --packages, or pin a version that the archives have "
        "(scripts/pin_image.py)"
    )


def _archives() -> list[str]:
    """The archives that apt is configured for, each once, in order."""
    if not os.access(_APT_HELPER, os.X_OK):
        raise PackageError(
            f"this machine has no apt ({_APT_HELPER}), from whose archives packages come: build on Debian 12 or later, "
            "or give the files in a folder with --packages"
        )
    done = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    if done.returncode != 0:
        raise PackageError(f"apt does not say where it takes packages from: {_last_line(done)}")
    return list(dict.fromkeys(line for line in done.stdout.splitlines() if line))


def _download_wheel(pin: Wheel, python: str, target: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
        requirements.flush()
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        files = ["--no-deps", "--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
        platforms = [option for name in _WHEEL_PLATFORMS for option in ("--platform", name)]
        what = ["--require-hashes", "--requirement", requirements.name, "--dest", str(target.parent)]
        done = _run([*pip, "download", *files, *platforms, *what])
    if done.returncode != 0 or not target.is_file():
        raise PackageError(
            f"pip has no {pin.file_name}: {_last_line(done)}: give the file in a folder with --packages, or pin another"
        )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"status {done.returncode}"
