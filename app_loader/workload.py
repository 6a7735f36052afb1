"""The one workload of a keep: received, checked, compiled, switched to, and found again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from app_loader.clock import now
from app_loader.compilation import DEFAULT_COMPILE_LIMITS, CompileLimits
from app_loader.configuration_store import CONFIGURATION_FILE
from app_loader.durable_files import read_small, replace_synced, sync_folder
from app_loader.errors import ModuleLoadError
from app_loader.files import Files
from app_loader.runner import Runner
from app_loader.storage import PLAIN, Storage
from app_loader.workload_modules import PlainModules, SealedModules, storing
from app_loader.workload_record import (
    RECORD,
    LoadedModule,
    StoredWorkload,
    WorkloadRecord,
    recent_modules,
)
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import WorkloadInfo
from keep_protocol.removal import remove_tree
from keep_protocol.spec import Limits
from keep_protocol.states import FileArea, WasmFeature, WorkloadKind, WorkloadState
from keep_protocol.strict_json import decode_strictly

Fits: TypeAlias = Callable[[WorkloadKind, tuple[WasmFeature, ...]], None]
"""Raises `RefusalError` for a workload that is not wanted."""

_log = logging.getLogger(__name__)


class Workload:
    """Uploads go to new files and become the workload by one rename, so SIGKILL leaves the old or the new one."""

    def __init__(
        self,
        state: Path,
        runner: Runner,
        limits: Limits,
        compile_limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
        *,
        files: Files | None = None,
        storage: Storage = PLAIN,
        features: Callable[[], tuple[WasmFeature, ...]] = lambda: (),
    ) -> None:
        """`files` are those whose output goes with the workload that made it; `features` tells which are on now."""
        self._folder = state / "workload"
        self._files = files or Files(state / "files", limits.files, storage)
        self._runner = runner
        self._storage = storage
        self._modules = (
            SealedModules(self._folder, runner, storage, limits.memory)
            if storage.sealed
            else PlainModules(self._folder, runner)
        )
        self._features = features
        self._limits = limits
        self._compile_limits = compile_limits
        self._stored: StoredWorkload | None = None
        self._recent: tuple[StoredWorkload, ...] = ()
        """Modules that were the workload before, the latest first."""
        self._closed: RefusalError | None = None
        """Why the workload that is stored cannot be opened."""
        self._incoming: str | None = None
        """Digest of what is being compiled."""
        self._busy = False
        self._mapped: set[str] = set()
        """Names of the modules that the runner has."""
        self._mapping: asyncio.Task[None] | None = None
        """Of the workload of an earlier life."""
        self._uses: dict[str, int] = {}
        """How many runs that are queued still need a module, by its name."""

    def restore(self) -> None:
        """Find the workload of an earlier life; what an interrupted upload left behind is removed.

        Its digests are checked before it is used the first time.
        """
        with contextlib.suppress(FileNotFoundError):
            try:
                raw = read_small(self._folder / RECORD)
                record = decode_strictly(self._storage.decode(raw, self._folder / RECORD), WorkloadRecord)
                self._stored, self._recent = record.current, record.recent
            except RefusalError as refusal:
                _log.error("the workload cannot be opened: %s", refusal.detail)
                self._closed = refusal
                return
            except FileNotFoundError:
                raise
            except OSError as error:
                _log.error("the workload cannot be read: %s", error)
                self._closed = RefusalError(ErrorCode.WORKLOAD_INVALID, f"{RECORD} cannot be read: {error.strerror}")
                return
            except msgspec.MsgspecError as error:
                _log.error("%s is damaged, so there is no workload: %s", self._folder / RECORD, error)
        self._remove_others()

    @property
    def info(self) -> WorkloadInfo:
        """`compiling` shows the new workload; until it is ready, runs get the old one."""
        if self._incoming is not None:
            return WorkloadInfo(WorkloadState.COMPILING, digest=self._incoming)
        if (stored := self._stored) is None:
            problems = () if self._closed is None else (f"a workload is stored and cannot be opened: {self._closed}",)
            return WorkloadInfo(WorkloadState.EMPTY, problems=problems)
        return stored.info

    @property
    def kind(self) -> WorkloadKind | None:
        """Of the workload that is run now; None while there is none."""
        return None if self._stored is None else self._stored.description.kind

    @property
    def summary(self) -> WorkloadInfo:
        """`info` without its lists."""
        return msgspec.structs.replace(
            self.info, imports=(), exports=(), problems=(), imports_omitted=0, exports_omitted=0
        )

    async def warm(self) -> None:
        """Let the runner map wasmtime and the workload, so that the first run need not wait.

        A keep without a workload stays as small as it is; its first upload takes some 30 ms longer.
        """
        if self._stored is not None:
            await self._runner.warm()
            await self._ensure_mapped()

    async def replace(
        self,
        chunks: AsyncIterator[bytes],
        *,
        expected_digest: bytes | None,
        size: int | None,
        fits: Fits = lambda _kind, _features: None,
    ) -> WorkloadInfo:
        """Take over an upload. The previous workload can be run until the new one is ready, and stays if it is refused.

        `size` is what the sender announced; `fits` refuses what is not wanted. Raises `RefusalError`.
        """
        # Here, as below, so that keeps to which nothing is sent do not pay for it.
        from app_loader.module_upload import receive_module, too_large

        if size is not None and size > self._limits.workload:
            raise too_large(self._limits.workload)
        if self._busy:
            raise self._in_use()
        self._busy = True
        name = os.urandom(8).hex()
        try:
            await self._storage.unlock()
            path = self._path(name, "wasm")
            digest, received = await receive_module(
                chunks, path, self._storage, self._limits.workload, expected_digest=expected_digest, size=size
            )
            self._incoming = digest
            stored = await self._known(digest) or await self._compiled(name, digest, received)
            self._check_fit(stored, fits)
            await self._switch(stored)
        finally:
            self._busy = False
            self._incoming = None
            self._modules.forget(name)
            self._remove_others()
        return self.info

    async def replace_python(
        self,
        chunks: AsyncIterator[bytes],
        runtime: str,
        *,
        expected_digest: bytes | None,
        size: int | None,
        fits: Fits = lambda _kind, _features: None,
    ) -> WorkloadInfo:
        """Take over Python source, as `replace`; `runtime` is the digest of a component that was loaded before."""
        from app_loader.python_upload import python_source, store_source

        if self._busy:
            raise self._in_use()
        self._busy = True
        try:
            await self._storage.unlock()
            source = await python_source(chunks, expected_digest, size)
            component = await self._known(runtime)
            if component is None or component.kind is not WorkloadKind.COMPONENT_COMMAND:
                raise RefusalError(
                    ErrorCode.RUNTIME_NOT_FOUND,
                    f"the keep has no Python runtime with the SHA-256 {runtime[:64]}",
                    remedy="load the runtime with PUT /v1/workload first, then the source",
                )
            self._check_features(component)
            fits(WorkloadKind.PYTHON, component.description.features)
            with storing():
                stored = await asyncio.to_thread(store_source, self._storage, self._folder, source)
            await self._switch(msgspec.structs.replace(component, python=stored))
        finally:
            self._busy = False
            self._remove_others()
        return self.info

    async def remove(self) -> None:
        """Forget the workload; runs that are going end undisturbed. Raises `RefusalError` (`workload-busy`)."""
        if self._busy:
            raise self._in_use()
        stored, self._stored = self._stored, None
        # Who has it forgotten does not expect its code to stay.
        self._recent = ()
        self._closed = None
        (self._folder / RECORD).unlink(missing_ok=True)
        await asyncio.to_thread(sync_folder, self._folder)
        self._remove_others()
        if stored is not None:
            self._unload_if_unused(stored.name)

    async def acquire(self) -> LoadedModule:
        """The workload for one run, mapped in the runner until `release`. Raises `RefusalError`."""
        if self._closed is not None:
            raise RefusalError(self._closed.code, self._closed.detail, remedy="restore the key, or upload it again")
        if self._stored is None:
            raise RefusalError(
                ErrorCode.WORKLOAD_EMPTY, "this keep has no workload", remedy="upload one with PUT /v1/workload"
            )
        await self._ensure_mapped()
        if (stored := self._stored) is None:
            raise RefusalError(ErrorCode.WORKLOAD_EMPTY, "the workload of this keep is damaged; upload it again")
        # Each time: the configuration may be another one than when it was loaded.
        self._check_features(stored)
        source = None
        if stored.python is not None:
            from app_loader.python_upload import stored_source

            source = stored_source(self._storage, self._folder, stored.python)
        self._uses[stored.name] = self._uses.get(stored.name, 0) + 1
        return LoadedModule(stored.name, stored.identity, stored.kind, source, stored.description.features)

    def release(self, module: LoadedModule) -> None:
        """The run was started or given up: the runner obeys in order, so it may forget the module now."""
        self._uses[module.name] -= 1
        if self._uses[module.name] == 0:
            del self._uses[module.name]
            if self._stored is None or self._stored.name != module.name:
                self._unload_if_unused(module.name)

    async def _known(self, digest: str) -> StoredWorkload | None:
        """The module with this digest, mapped, if it was compiled before and still is usable."""
        found = next((each for each in self._modules_kept() if each.digest == digest), None)
        if found is None:
            return None
        # Otherwise two would map one module at a time.
        await self._ensure_mapped()
        try:
            await self._load(found)
        except ModuleLoadError as error:
            # Also when this is another wasmtime or another processor, which wasmtime itself finds out.
            _log.warning("a module that was compiled before is compiled again: %s", error)
            return None
        return msgspec.structs.replace(found, loaded_at=now(), python=None)

    def _check_features(self, stored: StoredWorkload) -> None:
        """Raise `RefusalError` (`feature-off`) for a workload that needs features which are off."""
        if needed := stored.description.features:
            from keep_protocol.webassembly.features import check_features

            check_features(needed, self._features())

    def _check_fit(self, stored: StoredWorkload, fits: Fits) -> None:
        try:
            self._check_features(stored)
            fits(stored.kind, stored.description.features)
        except RefusalError:
            if self._stored is None or self._stored.name != stored.name:
                self._unload_if_unused(stored.name)
            raise

    async def _compiled(self, name: str, digest: str, size: int) -> StoredWorkload:
        with storing():
            compiled = await self._modules.compile(name, self._compile_limits, self._features())
        if compiled.source != digest:
            raise RefusalError(ErrorCode.INTERNAL, "the stored module is not what was received: the disk is at fault")
        return StoredWorkload(name, digest, size, compiled.digest, now(), compiled.description)

    async def _switch(self, stored: StoredWorkload) -> None:
        """The runner maps the new module first: what it cannot map never becomes the workload."""
        try:
            await self._load(stored)
        except ModuleLoadError as error:
            raise RefusalError(ErrorCode.COMPILE_FAILED, f"the compiled module cannot be mapped: {error}") from None
        recent = recent_modules(stored, self._modules_kept(), self._limits.workload)
        with storing():
            await self._record(stored, recent)
        old, self._stored, self._recent = self._stored, stored, recent
        self._closed = None
        if old is not None and old.name != stored.name:
            self._unload_if_unused(old.name)
        await self._files.delete(FileArea.OUTPUT, "")

    async def _record(self, stored: StoredWorkload, recent: tuple[StoredWorkload, ...]) -> None:
        path = self._folder / RECORD
        content = msgspec.json.encode(WorkloadRecord(stored, recent))
        await asyncio.to_thread(replace_synced, path, self._storage.encode(content, path))

    def _modules_kept(self) -> tuple[StoredWorkload, ...]:
        return self._recent if self._stored is None else (self._stored, *self._recent)

    async def _ensure_mapped(self) -> None:
        """Map the workload of an earlier life, once, whoever asks first."""
        if self._stored is None or self._stored.name in self._mapped:
            return
        if self._mapping is None:
            self._mapping = asyncio.create_task(self._map(self._stored))
        await asyncio.shield(self._mapping)

    async def _map(self, stored: StoredWorkload) -> None:
        """Also from the upload, compiled again; if that is damaged too, there is no workload any more."""
        usable: StoredWorkload | None = stored
        try:
            await self._load(stored)
        except ModuleLoadError as error:
            _log.warning("the compiled workload cannot be used and is compiled again: %s", error)
            usable = await self._recompiled(stored)
        if self._stored is not stored:  # replaced or removed meanwhile
            self._unload_if_unused(stored.name)
        elif usable is None:
            (self._folder / RECORD).unlink(missing_ok=True)
            self._stored = None
        else:
            self._stored = usable

    async def _recompiled(self, stored: StoredWorkload) -> StoredWorkload | None:
        target = self._path(stored.name, "cwasm")
        target.unlink(missing_ok=True)
        try:
            # What it was loaded with; whether that is still on is asked whenever it is used.
            features = stored.description.features
            compiled = await self._modules.compile(stored.name, self._compile_limits, features)
            if compiled.source != stored.digest:
                raise ModuleLoadError(f"the stored module has the digest {compiled.source}, not {stored.digest}")
            usable = msgspec.structs.replace(stored, compiled_digest=compiled.digest, description=compiled.description)
            await self._load(usable)
            if self._stored is stored:
                await self._record(usable, self._recent)
        except (RefusalError, ModuleLoadError, OSError) as error:
            _log.error("the stored workload is damaged, so there is none any more: %s", error)
            return None
        return usable

    async def _load(self, stored: StoredWorkload) -> None:
        if stored.name not in self._mapped:
            await self._modules.load(stored.name, stored.compiled_digest, stored.description)
            self._mapped.add(stored.name)

    def _unload_if_unused(self, name: str) -> None:
        if name not in self._uses:
            self._mapped.discard(name)
            self._runner.unload(name)

    def _remove_others(self) -> None:
        """All files but those of the workload; a mapped file lives on without its name."""
        if self._closed is not None:
            return  # whoever restores the key gets it back
        keep = {RECORD, CONFIGURATION_FILE}
        for each in self._modules_kept():
            keep |= each.files
        for entry in self._folder.iterdir():
            if entry.name not in keep:
                _remove(entry)

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def _in_use(self) -> RefusalError:
        return RefusalError(
            ErrorCode.WORKLOAD_BUSY, "another workload is being loaded", remedy="wait until it is, then try again"
        )


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        for _ in remove_tree(entry):
            pass
    else:
        entry.unlink(missing_ok=True)
