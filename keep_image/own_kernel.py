"""Our own small kernel: compiled once from Debian's pinned source by `kernel.config`, and kept by its recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from keep_image.archives import read_package
from keep_image.errors import BuildError
from keep_image.package_store import PackageStore, sha256_of
from keep_image.pins import DebianPackage

CONFIG: Final = Path(__file__).with_name("kernel.config")
"""Every option that is asked for; what these need comes with them, all others are off."""

_KERNEL: Final = "vmlinuz"
_MADE_CONFIG: Final = "config"
_FACTS: Final = "kernel.json"
_LOG: Final = "build.log"
_LAST_LINES: Final = 20
_ENVIRONMENT: Final = {
    "LC_ALL": "C",
    "TZ": "UTC",
    # All of them are in the kernel's banner, and would differ from build to build.
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_VERSION": "1",
    "KBUILD_BUILD_USER": "keep",
    "KBUILD_BUILD_HOST": "keep",
}


class KernelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a kept kernel is and was made of."""

    release: str
    """`uname -r` of it."""
    sha256: str
    size: int
    source: str
    """Name and version of the source's package."""
    source_sha256: str
    config_sha256: str
    """Of our list of options."""
    tools: tuple[str, ...]
    """Compiler, linker and compressor with their versions."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of the kernel."""

    source: DebianPackage
    config: bytes
    tools: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over source, options, environment and tools, in hex: what a kept kernel is found by."""
        parts = [self.source.sha256.encode(), self.config, *(tool.encode() for tool in self.tools)]
        parts += [f"{name}={value}".encode() for name, value in sorted(_ENVIRONMENT.items())]
        # Each part's own digest, since parts that run into each other could be cut in another way.
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class OwnKernel:
    """A kept kernel."""

    folder: Path
    facts: KernelFacts

    @property
    def path(self) -> Path:
        """The bzImage."""
        return self.folder / _KERNEL

    @property
    def made_config(self) -> Path:
        """The whole `.config`, after the kernel's own dependencies were followed."""
        return self.folder / _MADE_CONFIG


class KernelStore:
    """Kernels that were compiled here, each in a folder named by its recipe's digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, recipe: Recipe) -> OwnKernel | None:
        """The kept kernel of this recipe. One that was damaged counts as absent."""
        folder = self._folder / recipe.digest
        try:
            facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=KernelFacts)
            intact = sha256_of(folder / _KERNEL) == facts.sha256 and (folder / _MADE_CONFIG).is_file()
        except (OSError, msgspec.DecodeError):
            return None
        return OwnKernel(folder, facts) if intact else None

    def require(self, recipe: Recipe) -> OwnKernel:
        """As `find`. Raises `BuildError` where there is none."""
        if (kernel := self.find(recipe)) is None:
            raise BuildError(
                f"no kernel of ours is kept in {self._folder} for this source, these options and this compiler: "
                "compile it once with `keep-manager image kernel build`"
            )
        return kernel

    def build(self, recipe: Recipe, packages: PackageStore, *, jobs: int) -> OwnKernel:
        """Compile it, or take the kept one. Minutes, and 2 GB below the folder meanwhile.

        Raises `PackageError` and `BuildError`, the latter with the last lines of what failed.
        """
        if (kept := self.find(recipe)) is not None:
            return kept
        package = packages.package(recipe.source)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Not in /tmp, which is memory on many machines.
            with tempfile.TemporaryDirectory(dir=self._folder, prefix="new-") as name:
                made = _compile(recipe, package, Path(name), jobs)
                self._keep(made, self._folder / recipe.digest)
        except OSError as error:
            raise BuildError(f"no kernel can be made in {self._folder}: {error}") from None
        return self.require(recipe)

    def _keep(self, made: Path, target: Path) -> None:
        # What is there is damaged, or of another build that was as fast: both give the same bytes.
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def kernel_folder(cache: Path) -> Path:
    """Where kernels are kept, beside the packages of a cache."""
    return cache / "kernels"


def recipe(source: DebianPackage, tools: tuple[str, ...], config: Path = CONFIG) -> Recipe:
    """The recipe for our options."""
    return Recipe(source, config.read_bytes(), tools)


def unmet_options(wanted: str, made: str) -> list[str]:
    """Lines of a list of options that are not in a made `.config`: Kconfig drops silently what lacks a dependency."""
    lines = set(made.splitlines())
    return [line for line in wanted.splitlines() if line.startswith("CONFIG_") and line not in lines]


def _compile(recipe: Recipe, package: Path, folder: Path, jobs: int) -> Path:
    """The folder with the kernel, its `.config` and its facts."""
    source = _unpack(recipe.source, package, folder)
    output, options = folder / "output", folder / CONFIG.name
    output.mkdir()
    options.write_bytes(recipe.config)
    make = _Make(source, output, folder / _LOG)
    make.run("allnoconfig", {"KCONFIG_ALLCONFIG": str(options)})
    made_config = output / ".config"
    if unmet := unmet_options(recipe.config.decode(), made_config.read_text()):
        raise BuildError(
            f"{recipe.source.name} {recipe.source.version} does not take {', '.join(unmet)} of {CONFIG.name}: "
            "an option was renamed, or lacks one that it depends on"
        )
    make.run("bzImage", jobs=jobs)
    return _collect(recipe, output, folder / "kernel")


def _collect(recipe: Recipe, output: Path, target: Path) -> Path:
    target.mkdir()
    kernel = target / _KERNEL
    shutil.copyfile(output / "arch" / "x86" / "boot" / "bzImage", kernel)
    shutil.copyfile(output / ".config", target / _MADE_CONFIG)
    facts = KernelFacts(
        release=(output / "include" / "config" / "kernel.release").read_text().strip(),
        sha256=sha256_of(kernel),
        size=kernel.stat().st_size,
        source=f"{recipe.source.name} {recipe.source.version}",
        source_sha256=recipe.source.sha256,
        config_sha256=hashlib.sha256(recipe.config).hexdigest(),
        tools=recipe.tools,
    )
    (target / _FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")
    return target


def _unpack(pin: DebianPackage, package: Path, folder: Path) -> Path:
    """The source's folder. The package has nothing but an archive in it."""
    path = f"usr/src/{pin.name}.tar.xz"
    members = read_package(package, lambda name: name == path)
    if path not in members:
        raise BuildError(f"{package.name} has no {path}: it is no source of Linux")
    archive = folder / "source.tar.xz"
    archive.write_bytes(members[path].content)
    _run(["tar", "--extract", "--no-same-owner", "--file", str(archive)], folder, {}, folder / _LOG)
    archive.unlink()
    source = folder / pin.name
    if not source.is_dir():
        raise BuildError(f"{path} of {package.name} has no folder {pin.name}")
    return source


class _Make:
    """make in the source, with all that it writes in another folder."""

    def __init__(self, source: Path, output: Path, log: Path) -> None:
        self._source = source
        self._output = output
        self._log = log

    def run(self, target: str, variables: Mapping[str, str] | None = None, *, jobs: int = 1) -> None:
        given = [f"{name}={value}" for name, value in (variables or {}).items()]
        # Somebody works on this machine, or keeps run on it.
        command = ["nice", "-n", "10", "make", "--silent", f"--jobs={jobs}", f"O={self._output}", *given, target]
        _run(command, self._source, _ENVIRONMENT, self._log)


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
    # Nothing else of the environment: CFLAGS and MAKEFLAGS of whoever builds would change the kernel.
    variables = {"PATH": os.environ.get("PATH", os.defpath), **environment}
    with log.open("wb") as output:
        done = subprocess.run(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        raise BuildError("\n  ".join([f"the kernel's build failed, status {done.returncode}; its last lines:", *lines]))
