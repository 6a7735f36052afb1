"""The one configuration of a keep's workload: checked against the spec, kept beside the workload, found again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from app_loader.durable_files import read_small, replace_synced, sync_folder
from app_loader.storage import PLAIN, Storage
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import KeepSpec
from keep_protocol.states import WasmFeature, WorkloadKind
from keep_protocol.strict_json import decode_strictly

if TYPE_CHECKING:
    # Imported with the first configuration: most keeps have none.
    from keep_protocol.workload_configuration import HttpService, WorkloadConfiguration

CONFIGURATION_FILE: Final = "configuration.json"

_log = logging.getLogger(__name__)


class ConfigurationStore:
    """Replaced by one rename, so SIGKILL leaves the old or the new one."""

    def __init__(self, state: Path, spec: KeepSpec, storage: Storage = PLAIN) -> None:
        self._path = state / "workload" / CONFIGURATION_FILE
        self._spec = spec
        self._storage = storage
        self._current: WorkloadConfiguration | None = None
        self._damage: str | None = None
        self._lock = asyncio.Lock()

    def restore(self) -> None:
        """Find the configuration of an earlier life. One that cannot be read keeps runs from starting."""
        try:
            raw = self._storage.decode(read_small(self._path), self._path)
            self._current = _decode(raw)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, RefusalError) as error:
            self._damage = str(error)
            _log.error("%s is damaged, so nothing is run until it is replaced: %s", self._path, error)

    @property
    def current(self) -> WorkloadConfiguration | None:
        """The configuration, if there is one. Raises `RefusalError` (`configuration-invalid`) if it is damaged."""
        if self._damage is not None:
            raise RefusalError(
                ErrorCode.CONFIGURATION_INVALID,
                f"the stored configuration cannot be read: {self._damage}",
                remedy="send it again with PUT /v1/configuration, or remove it with DELETE",
            )
        return self._current

    @property
    def current_if_sound(self) -> WorkloadConfiguration | None:
        """The configuration; None also if it is damaged."""
        return self._current

    @property
    def http(self) -> HttpService | None:
        """What the configuration says of HTTP; nothing if there is none, or a damaged one."""
        return None if self._current is None else self._current.http

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of the configuration's canonical bytes; None while there is none, or a damaged one."""
        return None if self._current is None else hashlib.sha256(_encode(self._current)).digest()

    def require(self) -> WorkloadConfiguration:
        """The configuration. Raises `RefusalError` also if there is none."""
        if (current := self.current) is None:
            raise RefusalError(
                ErrorCode.CONFIGURATION_NOT_FOUND,
                "the workload of this keep has no configuration",
                remedy="send one with PUT /v1/configuration",
            )
        return current

    def features(self) -> tuple[WasmFeature, ...]:
        """Those that the configuration switches on; none if there is none, or a damaged one."""
        return () if self._current is None else self._current.features

    def check_sockets(self, kind: WorkloadKind, features: tuple[WasmFeature, ...]) -> None:
        """Raise `RefusalError` (`workload-not-runnable`) for a workload that can have no sockets, if `files` has."""
        # Not before there is a workload: a keep that starts needs neither.
        from app_loader.run_admission import check_sockets
        from app_loader.runner_messages import shimmed

        files = () if self._current is None else self._current.files or ()
        if shimmed([file.__struct_config__.tag for file in files]):
            check_sockets(kind, features)

    async def replace(self, configuration: WorkloadConfiguration) -> str:
        """Take over a configuration, for runs that start from now on; its digest in hex. Raises `RefusalError`."""
        from keep_protocol.configuration_check import check_configuration

        check_configuration(configuration, self._spec)
        content = _encode(configuration)
        await self._storage.unlock()
        async with self._lock:
            try:
                stored = self._storage.encode(content, self._path)
                await asyncio.to_thread(replace_synced, self._path, stored)
            except OSError as error:
                detail = f"the configuration could not be stored: {error.strerror}"
                raise RefusalError(ErrorCode.DISK_FULL, detail) from None
            self._current, self._damage = configuration, None
        return hashlib.sha256(content).hexdigest()

    async def remove(self) -> None:
        """Forget the configuration; nothing happens if there is none. Runs that are going keep it."""
        async with self._lock:
            self._path.unlink(missing_ok=True)
            await asyncio.to_thread(sync_folder, self._path.parent)
            self._current, self._damage = None, None


def _decode(raw: bytes) -> WorkloadConfiguration:
    from keep_protocol.workload_configuration import WorkloadConfiguration

    return decode_strictly(raw, WorkloadConfiguration)


def _encode(configuration: WorkloadConfiguration) -> bytes:
    from keep_protocol.workload_configuration import canonical

    return canonical(configuration)
