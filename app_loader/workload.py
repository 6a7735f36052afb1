"""The one workload of a keep: received, checked, compiled, switched to, and found again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

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
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import WorkloadDescription, WorkloadInfo
from keep_protocol.removal import remove_tree
from keep_protocol.spec import Limits
from keep_protocol.states import FileArea, WorkloadKind, WorkloadState
from keep_protocol.strict_json import decode_strictly
from keep_protocol.webassembly import header

_log = logging.getLogger(__name__)

_RECORD = "workload.json"


class StoredWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`workload.json`: which files are the workload. Replacing this file is the switch to another one."""

    name: str
    """Of the files `<name>.wasm` and `<name>.cwasm` beside it."""
    digest: str
    size: int
    compiled_digest: str
    loaded_at: str
    description: WorkloadDescription


class LoadedModule(msgspec.Struct, frozen=True):
    """A module that the runner has mapped. `digest` is that of the upload."""

    name: str
    digest: str
    kind: WorkloadKind


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
    ) -> None:
        """`files` are those whose output goes with the workload that made it."""
        self._folder = state / "workload"
        self._files = files or Files(state / "files", limits.files, storage)
        self._runner = runner
        self._storage = storage
        self._modules = (
            SealedModules(self._folder, runner, storage, limits.memory)
            if storage.sealed
            else PlainModules(self._folder, runner)
        )
        self._limits = limits
        self._compile_limits = compile_limits
        self._stored: StoredWorkload | None = None
        self._closed: RefusalError | None = None
        """Why the workload that is stored cannot be opened."""
        self._incoming: str | None = None
        """Digest of what is being compiled."""
        self._busy = False
        self._mapped = False
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
                raw = read_small(self._folder / _RECORD)
                self._stored = decode_strictly(self._storage.decode(raw, self._folder / _RECORD), StoredWorkload)
            except RefusalError as refusal:
                _log.error("the workload cannot be opened: %s", refusal.detail)
                self._closed = refusal
                return
            except FileNotFoundError:
                raise
            except OSError as error:
                _log.error("the workload cannot be read: %s", error)
                self._closed = RefusalError(ErrorCode.WORKLOAD_INVALID, f"{_RECORD} cannot be read: {error.strerror}")
                return
            except msgspec.MsgspecError as error:
                _log.error("%s is damaged, so there is no workload: %s", self._folder / _RECORD, error)
        self._remove_others()

    @property
    def info(self) -> WorkloadInfo:
        """`compiling` shows the new workload; until it is ready, runs get the old one."""
        if self._incoming is not None:
            return WorkloadInfo(WorkloadState.COMPILING, digest=self._incoming)
        if (stored := self._stored) is None:
            problems = () if self._closed is None else (f"a workload is stored and cannot be opened: {self._closed}",)
            return WorkloadInfo(WorkloadState.EMPTY, problems=problems)
        described = stored.description
        return WorkloadInfo(
            WorkloadState.LOADED,
            stored.digest,
            stored.size,
            stored.loaded_at,
            described.kind,
            described.imports,
            described.exports,
            described.problems,
            described.imports_omitted,
            described.exports_omitted,
        )

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
        fits: Callable[[WorkloadKind], None] = lambda _: None,
    ) -> WorkloadInfo:
        """Take over an upload. The previous workload can be run until the new one is ready, and stays if it is refused.

        `size` is what the sender announced; `fits` refuses kinds that are not wanted. Raises `RefusalError`.
        """
        if size is not None and size > self._limits.workload:
            raise self._too_large()
        if self._busy:
            raise RefusalError(
                ErrorCode.WORKLOAD_BUSY, "another workload is being loaded", remedy="wait until it is, then try again"
            )
        self._busy = True
        name = os.urandom(8).hex()
        try:
            await self._storage.unlock()
            digest, received = await self._receive(chunks, self._path(name, "wasm"), expected_digest, size)
            self._incoming = digest
            with storing():
                compiled = await self._modules.compile(name, self._compile_limits)
            if compiled.source != digest:
                raise RefusalError(
                    ErrorCode.INTERNAL, "the stored module is not what was received: the disk is at fault"
                )
            fits(compiled.description.kind)
            await self._switch(StoredWorkload(name, digest, received, compiled.digest, now(), compiled.description))
        finally:
            self._busy = False
            self._incoming = None
            self._modules.forget(name)
            self._remove_others()
        return self.info

    async def remove(self) -> None:
        """Forget the workload; runs that are going end undisturbed. Raises `RefusalError` (`workload-busy`)."""
        if self._busy:
            raise RefusalError(ErrorCode.WORKLOAD_BUSY, "another workload is being loaded")
        stored, self._stored = self._stored, None
        self._closed = None
        (self._folder / _RECORD).unlink(missing_ok=True)
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
        self._uses[stored.name] = self._uses.get(stored.name, 0) + 1
        return LoadedModule(stored.name, stored.digest, stored.description.kind)

    def release(self, module: LoadedModule) -> None:
        """The run was started or given up: the runner obeys in order, so it may forget the module now."""
        self._uses[module.name] -= 1
        if self._uses[module.name] == 0:
            del self._uses[module.name]
            if self._stored is None or self._stored.name != module.name:
                self._unload_if_unused(module.name)

    async def _receive(
        self, chunks: AsyncIterator[bytes], path: Path, expected_digest: bytes | None, size: int | None
    ) -> tuple[str, int]:
        """Digest in hex and size of what is then in `path`, not yet synced."""
        digest = hashlib.sha256()
        received = 0
        head = b""
        with storing():
            file = path.open("xb", buffering=0)
        with file:
            writer = self._storage.writer(file.fileno(), path)
            # The sender's errors are OSErrors too, so only what is ours is taken for the disk's.
            async for chunk in chunks:
                received += len(chunk)
                if received > self._limits.workload:
                    raise self._too_large()
                if len(head) < header.HEADER_SIZE:
                    head = (head + chunk)[: header.HEADER_SIZE]
                    if len(head) == header.HEADER_SIZE:
                        _check_header(head)
                digest.update(chunk)
                with storing():
                    writer.write(chunk)
            with storing():
                writer.finish()
        if size is not None and received != size:
            raise RefusalError(ErrorCode.BODY_INCOMPLETE, f"expected {size} bytes, received {received}")
        _check_header(head)
        if expected_digest is not None and digest.digest() != expected_digest:
            raise RefusalError(
                ErrorCode.WORKLOAD_DIGEST_MISMATCH,
                f"expected SHA-256 {expected_digest.hex()}, received {digest.hexdigest()}",
                remedy="send the file again; it changed on its way or since its digest was made",
            )
        return digest.hexdigest(), received

    async def _switch(self, stored: StoredWorkload) -> None:
        """The runner maps the new module first: what it cannot map never becomes the workload."""
        try:
            await self._load(stored)
        except ModuleLoadError as error:
            raise RefusalError(ErrorCode.COMPILE_FAILED, f"the compiled module cannot be mapped: {error}") from None
        with storing():
            await self._record(stored)
        old, self._stored = self._stored, stored
        self._closed = None
        self._mapped = True
        if old is not None:
            self._unload_if_unused(old.name)
        await self._files.delete(FileArea.OUTPUT, "")

    async def _record(self, stored: StoredWorkload) -> None:
        path = self._folder / _RECORD
        await asyncio.to_thread(replace_synced, path, self._storage.encode(msgspec.json.encode(stored), path))

    async def _ensure_mapped(self) -> None:
        """Map the workload of an earlier life, once, whoever asks first."""
        if self._mapped or self._stored is None:
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
            (self._folder / _RECORD).unlink(missing_ok=True)
            self._stored = None
        else:
            self._stored = usable
            self._mapped = True

    async def _recompiled(self, stored: StoredWorkload) -> StoredWorkload | None:
        target = self._path(stored.name, "cwasm")
        target.unlink(missing_ok=True)
        try:
            compiled = await self._modules.compile(stored.name, self._compile_limits)
            if compiled.source != stored.digest:
                raise ModuleLoadError(f"the stored module has the digest {compiled.source}, not {stored.digest}")
            usable = msgspec.structs.replace(stored, compiled_digest=compiled.digest, description=compiled.description)
            await self._load(usable)
            if self._stored is stored:
                await self._record(usable)
        except (RefusalError, ModuleLoadError, OSError) as error:
            _log.error("the stored workload is damaged, so there is none any more: %s", error)
            return None
        return usable

    async def _load(self, stored: StoredWorkload) -> None:
        kind = stored.description.kind
        http = kind is WorkloadKind.HTTP_PROXY
        await self._modules.load(stored.name, stored.compiled_digest, component=kind.is_component, http=http)

    def _unload_if_unused(self, name: str) -> None:
        if name not in self._uses:
            self._runner.unload(name)

    def _remove_others(self) -> None:
        """All files but those of the workload; a mapped file lives on without its name."""
        if self._closed is not None:
            return  # whoever restores the key gets it back
        keep = {_RECORD, CONFIGURATION_FILE}
        if self._stored is not None:
            keep |= {f"{self._stored.name}.wasm", f"{self._stored.name}.cwasm"}
        for entry in self._folder.iterdir():
            if entry.name not in keep:
                _remove(entry)

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def _too_large(self) -> RefusalError:
        return RefusalError(
            ErrorCode.BODY_TOO_LARGE, f"the keep's spec limits a workload to {self._limits.workload} bytes"
        )


def _check_header(head: bytes) -> None:
    if reason := header.refusal(head):
        raise RefusalError(ErrorCode.WORKLOAD_INVALID, reason)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        for _ in remove_tree(entry):
            pass
    else:
        entry.unlink(missing_ok=True)
