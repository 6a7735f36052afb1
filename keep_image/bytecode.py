"""Sources become .pyc files of the guest's Python, the same bytes on every machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keep_image.toolchain import Toolchain

_SCRIPT: Final = Path(__file__).with_name("compile_sources.py")


def compile_sources(sources: Mapping[str, bytes], toolchain: Toolchain) -> dict[str, bytes]:
    """The .pyc of each source, by its path: beside where the source would be, `x.pyc` for `x.py`.

    Tracebacks name the sources' absolute paths in the guest. Raises `BuildError`.
    """
    paths = sorted(sources)
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        (folder / "sources.json").write_text(json.dumps([f"/{path}" for path in paths]))
        for number, path in enumerate(paths):
            (folder / f"{number}.py").write_bytes(sources[path])
        toolchain.run_python(_SCRIPT, [str(folder)])
        return {f"{path}c": (folder / f"{number}.pyc").read_bytes() for number, path in enumerate(paths)}
