"""`workload.json`: which files are the workload, and which modules of earlier ones are kept compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from keep_protocol.keep_api import WorkloadDescription, WorkloadInfo
from keep_protocol.states import WasmFeature, WorkloadKind, WorkloadState

RECORD: Final = "workload.json"

_KEPT: Final = 4
"""Modules that are kept compiled, the workload's among them."""
_KEPT_SIZES: Final = 2
"""How many times the spec's limit of one upload they may be together."""


class StoredSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Python source, in the file `<name>.py`."""

    name: str
    digest: str
    size: int


class StoredWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A module and, where it is a runtime for one, the program that it runs."""

    name: str
    """Of the files `<name>.wasm` and `<name>.cwasm` beside the record."""
    digest: str
    """SHA-256 of the upload, in hex."""
    size: int
    compiled_digest: str
    loaded_at: str
    description: WorkloadDescription
    python: StoredSource | None = None

    @property
    def files(self) -> set[str]:
        """Names of all files that it needs."""
        source = set() if self.python is None else {f"{self.python.name}.py"}
        return {f"{self.name}.wasm", f"{self.name}.cwasm"} | source

    @property
    def kind(self) -> WorkloadKind:
        """What its users see."""
        return self.description.kind if self.python is None else WorkloadKind.PYTHON

    @property
    def info(self) -> WorkloadInfo:
        """It as its users see it, when it is loaded."""
        described = self.description
        if self.python is not None:
            return WorkloadInfo(
                *(WorkloadState.LOADED, self.identity, self.python.size, self.loaded_at, self.kind),
                runtime=self.digest,
                features=described.features,
            )
        return WorkloadInfo(
            *(WorkloadState.LOADED, self.identity, self.size, self.loaded_at, self.kind),
            *(described.imports, described.exports, described.problems),
            *(described.imports_omitted, described.exports_omitted),
            features=described.features,
        )

    @property
    def identity(self) -> str:
        """The digest that evidence names: of the upload; of Python source, together with what runs it."""
        if self.python is None:
            return self.digest
        from keep_protocol.python_source import python_digest

        return python_digest(self.digest, self.python.digest)


class WorkloadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replacing this file is the switch to another workload."""

    current: StoredWorkload
    recent: tuple[StoredWorkload, ...] = ()


class LoadedModule(msgspec.Struct, frozen=True):
    """A module that the runner has mapped. `digest` is the workload's, `source` what it is to run."""

    name: str
    digest: str
    kind: WorkloadKind
    source: str | None = None
    features: tuple[WasmFeature, ...] = ()


def recent_modules(current: StoredWorkload, known: Iterable[StoredWorkload], limit: int) -> tuple[StoredWorkload, ...]:
    """Which of the modules that are `known`, the latest first, are kept beside the `current` one.

    `limit` is that of one upload, in bytes.
    """
    kept: list[StoredWorkload] = []
    size = current.size
    for each in known:
        if each.digest == current.digest or len(kept) == _KEPT - 1:
            continue
        size += each.size
        if size <= _KEPT_SIZES * limit:
            kept.append(msgspec.structs.replace(each, python=None))
    return tuple(kept)
