"""The folders that runs have: as they lie on disk, or opened for them in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app_loader.files import Files
from app_loader.mounts import open_mounts
from keep_protocol.keep_api import Mount
from keep_protocol.states import FileArea

if TYPE_CHECKING:
    # Imported with the first run that has one.
    from app_loader.at_rest.views import Views
    from app_loader.sealing.sealer import Sealer


class RunFolders:
    """Of one keep."""

    def __init__(self, files: Files, state: Path, sealer: Callable[[], Awaitable[Sealer]] | None) -> None:
        """`sealer` gives what the keep seals with, or raises `SealingError`."""
        self._files = files
        self._state = state
        self._sealer = sealer or _no_sealer
        self._views: Views | None = None

    def views(self, mounts: Sequence[Mount]) -> Views | None:
        """What opens the areas of these mounts; None where all are as they lie on disk."""
        if not any(self._files.storage.sealed or mount.area is FileArea.SEALED for mount in mounts):
            return None
        if self._views is None:
            from app_loader.at_rest.views import Views

            self._views = Views(self._files, self._state, self._sealer)
        return self._views

    def open(self, mounts: Sequence[Mount]) -> tuple[int, ...]:
        """As `open_mounts`, where the areas are now."""
        return open_mounts(self._files.mounted, mounts)


async def _no_sealer() -> Sealer:
    from app_loader.sealing.errors import SealingUnavailableError

    raise SealingUnavailableError("this keep was given no key to seal with")
