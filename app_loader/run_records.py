"""Run records on disk: one folder a run, with its record, its outputs and, if it may be restarted, its plan.

A record survives SIGKILL of anything, but not power loss: renamed into place, never synced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app_loader.durable_files import read_small
from app_loader.storage import PLAIN, Storage
from keep_protocol.errors import RefusalError
from keep_protocol.keep_api import Run
from keep_protocol.states import RunState
from keep_protocol.strict_json import decode_strictly

if TYPE_CHECKING:
    # Imported with the first run.
    from app_loader.run_plan import RunPlan

_log = logging.getLogger(__name__)

_RUN_ID = r"r[0-9a-f]{15}"
_RANDOM_BITS = 16


class RunRecords:
    """The folder `runs` of a keep's state."""

    def __init__(self, folder: Path, storage: Storage = PLAIN) -> None:
        self._folder = folder
        self._storage = storage
        self._last_id = 0

    def new_id(self) -> str:
        """`r` and 15 hex digits: milliseconds, then random ones; later ids sort behind earlier ones."""
        number = (time.time_ns() // 1_000_000 << _RANDOM_BITS) + int.from_bytes(os.urandom(_RANDOM_BITS // 8))
        self._last_id = max(self._last_id + 1, number)
        return f"r{self._last_id:015x}"

    def folder(self, run_id: str) -> Path:
        """Where a run's files are."""
        return self._folder / run_id

    def create(self, run: Run, plan: RunPlan | None) -> None:
        """Make a run's folder and first record; with `plan` if it may be restarted. Raises `OSError`."""
        self.folder(run.id).mkdir(mode=0o700)
        try:
            if plan is not None:
                self._write(run.id, "plan.json", msgspec.json.encode(plan))
            self.write(run)
        except OSError:
            self.remove(run.id)
            raise

    def write(self, run: Run) -> None:
        """Replace a run's record. Raises `OSError`."""
        self._write(run.id, "record.json", msgspec.json.encode(run))

    def plan(self, run_id: str) -> RunPlan | None:
        """What a run was started with, if that was kept."""
        from app_loader.run_plan import RunPlan

        try:
            return decode_strictly(self._read(self.folder(run_id) / "plan.json"), RunPlan)
        except (OSError, msgspec.MsgspecError, RefusalError):
            return None

    def drop_outputs(self, run_id: str) -> None:
        """Forget what a run has put out, before it is run again."""
        for stream in ("stdout", "stderr"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder(run_id) / stream).unlink()

    def remove(self, run_id: str) -> None:
        """Forget a run."""
        folder = self.folder(run_id)
        # What cannot be removed is found again by the next start.
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():
                entry.unlink()
            folder.rmdir()

    def load(self) -> list[Run]:
        """All records, oldest first. What is not one is logged and left alone."""
        runs = []
        for entry in sorted(self._folder.iterdir()):
            try:
                run = decode_strictly(self._read(entry / "record.json"), Run)
            except (OSError, msgspec.MsgspecError, RefusalError) as error:
                _log.warning("%s holds no record of a run and is ignored: %s", entry, error)
                continue
            if run.id != entry.name or not re.fullmatch(_RUN_ID, run.id):
                _log.warning("%s holds the record of another run and is ignored", entry)
                continue
            runs.append(run)
            self._last_id = max(self._last_id, int(run.id[1:], 16))
        return runs

    def _read(self, path: Path) -> bytes:
        return self._storage.decode(read_small(path), path)

    def _write(self, run_id: str, name: str, content: bytes) -> None:
        folder = self.folder(run_id)
        temporary = folder / f"{name}.new"
        temporary.write_bytes(self._storage.encode(content, folder / name))
        os.replace(temporary, folder / name)


def running(run: Run, since: str) -> Run:
    """The record of a run whose process is started."""
    return msgspec.structs.replace(run, state=RunState.RUNNING, started_at=since)


def told_at_end(run: Run) -> dict[str, str | int | float | None]:
    """Of a run that is over, what its event tells: reason and usage."""
    ending = {} if run.exit is None else msgspec.structs.asdict(run.exit)
    ending.pop("backtrace", None)
    usage = {} if run.usage is None else msgspec.structs.asdict(run.usage)
    return {"run": run.id, **ending, **usage}
