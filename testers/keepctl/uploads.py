"""What `keepctl load` and `run` send: a .wasm, or Python source together with what runs it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from keep_client import InvalidArgumentError, KeepClient, Source
from keep_client.python_runtime.building import build_runtime
from keep_client.sources import CODINGS
from keep_protocol.keep_api import WorkloadInfo
from keep_protocol.python_source import MAX_SOURCE, python_digest
from testers.keepctl.console import upload_bar

PYTHON_SUFFIX = ".py"


@dataclass(frozen=True, slots=True)
class Upload:
    """A workload as it is sent. `runtime` runs `source`, if that is Python."""

    source: Source
    runtime: Source | None = None

    @property
    def digest(self) -> str:
        """What the keep calls it, in hex."""
        digest = self.source.decoded_digest.hex()
        return digest if self.runtime is None else python_digest(self.runtime.decoded_digest.hex(), digest)

    def load(self, keep: KeepClient) -> WorkloadInfo:
        """Send it, with a progress bar for what is large."""
        large = self.runtime or self.source
        with upload_bar(Path(large.name).name, large.size) as progress:
            if self.runtime is None:
                return keep.load_workload(self.source, progress=progress)
            return keep.load_python(self.source, self.runtime, progress=progress)


def is_python(path: Path) -> bool:
    """Whether a file is taken for Python source, and not for a .wasm."""
    return path.suffix == PYTHON_SUFFIX


def add_upload_options(command: argparse.ArgumentParser) -> None:
    """Declare how a workload is sent."""
    command.add_argument(
        "--compress", choices=CODINGS, help="send the workload compressed: for slow networks (default: as it is)"
    )
    command.add_argument(
        "--python-runtime",
        metavar="FILE.wasm",
        type=Path,
        help="what runs Python source (default: one that is made once, and kept in the cache of this user)",
    )


def upload_of(options: argparse.Namespace) -> Upload:
    """What the command line names. Raises `KeepClientError`."""
    path: Path = options.file
    source = Source.from_file(path)
    runtime: Path | None = options.python_runtime
    if not is_python(path):
        if runtime is not None:
            raise InvalidArgumentError(f"--python-runtime is for files named *{PYTHON_SUFFIX}, and {path} is none")
        return Upload(_coded(source, options.compress))
    if source.size > MAX_SOURCE:
        raise InvalidArgumentError(f"{path} has {source.size} bytes: a program in Python has at most {MAX_SOURCE}")
    component = Source.from_file(build_runtime() if runtime is None else runtime)
    return Upload(source, _coded(component, options.compress))


def _coded(source: Source, coding: str | None) -> Source:
    return source if coding is None else source.compressed(coding)
