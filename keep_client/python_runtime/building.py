"""Builds the Python runtime, or finds the one that was built before."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Final

from keep_client.errors import RuntimeBuildError

_GUEST: Final = Path(__file__).parent / "guest"
_FILES: Final = ("deps/cli/cli.wit", "runtime.wit", "wasmkeep_modules.py", "wasmkeep_runtime.py")
_TOOL: Final = "import sys, componentize_py; sys.exit(componentize_py.script())"
_SECONDS: Final = 600
_MAX_COMPLAINT: Final = 2000


def build_runtime(cache: Path | None = None) -> Path:
    """The runtime, a component of some 25 MB; it takes seconds to make, once for each version of it.

    `cache` is a folder, else `wasmkeep` in the user's cache (XDG Base Directory). Raises `RuntimeBuildError`.
    """
    try:
        tool = metadata.version("componentize-py")
    except metadata.PackageNotFoundError:
        raise RuntimeBuildError(
            "componentize-py, which makes the Python runtime, is not installed: pip install 'wasmkeep[python]'"
        ) from None
    folder = _user_cache() if cache is None else cache
    path = folder / f"python-{_key(tool)}.wasm"
    try:
        if not path.is_file():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _build(path)
    except OSError as error:
        raise RuntimeBuildError(f"the Python runtime cannot be kept in {folder}: {error.strerror}") from error
    return path


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification wants relative paths to be ignored.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "wasmkeep"


def _key(tool: str) -> str:
    """Of all that the runtime is made of."""
    digest = hashlib.sha256(tool.encode())
    for name in _FILES:
        digest.update(hashlib.sha256((_GUEST / name).read_bytes()).digest())
    return digest.hexdigest()[:32]


def _build(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".python-", dir=path.parent) as folder:
        made = Path(folder) / "runtime.wasm"
        command = (
            *(sys.executable, "-I", "-c", _TOOL, "-d", str(_GUEST), "-w", "runtime"),
            *("componentize", "wasmkeep_runtime", "-p", str(_GUEST), "-o", str(made)),
        )
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False, cwd=folder)
        except subprocess.TimeoutExpired:
            raise RuntimeBuildError(f"componentize-py took more than {_SECONDS} s to make the runtime") from None
        if done.returncode != 0 or not made.is_file():
            complaint = done.stderr.decode(errors="replace").strip()[:_MAX_COMPLAINT]
            raise RuntimeBuildError(f"componentize-py could not make the Python runtime: {complaint}")
        # Whoever made one at the same time has made it as good, though its snapshot of memory is never quite the same.
        os.replace(made, path)
