"""The files of workloads: uploads as they come, and their compiled modules, in plaintext where they are used."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from app_loader.compilation import Compiled, CompileLimits, compile_file, compile_opened
from app_loader.errors import ModuleLoadError
from app_loader.plaintext_memory import room_for_plaintext
from app_loader.runner import Runner
from app_loader.storage import PlainReader, Storage, write_all
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import WorkloadDescription
from keep_protocol.states import WasmFeature

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class PlainModules:
    """As they are: the compiler writes the file that the runner maps."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self._folder = folder
        self._runner = runner

    async def compile(self, name: str, limits: CompileLimits, features: Collection[WasmFeature]) -> Compiled:
        """Compile `<name>.wasm`; the result is on disk. Raises `RefusalError`, `OSError`, `RunnerDiedError`."""
        source, target = self._folder / f"{name}.wasm", self._folder / f"{name}.cwasm"
        return await compile_file(self._runner, source, target, limits, features)

    async def load(self, name: str, digest: str, description: WorkloadDescription) -> None:
        """Let the runner map a compiled module. Raises `ModuleLoadError`, `RunnerDiedError`, `RefusalError`."""
        await self._runner.load(name, self._folder / f"{name}.cwasm", digest, description)

    def forget(self, name: str) -> None:
        """Nothing is held in memory; the folder is its owner's to tidy."""


class SealedModules:
    """Sealed on disk. What is compiled or mapped is in memory, and the runner cannot change it there."""

    def __init__(self, folder: Path, runner: Runner, storage: Storage, memory: int) -> None:
        """`memory` is the keep's, in bytes."""
        self._folder = folder
        self._runner = runner
        self._storage = storage
        self._room = room_for_plaintext(memory)
        self._compiled: dict[str, int] = {}
        """Descriptors of modules that were compiled and not yet mapped, by name."""

    async def compile(self, name: str, limits: CompileLimits, features: Collection[WasmFeature]) -> Compiled:
        """As `PlainModules.compile`; refused if there is not the memory for it."""
        path = self._folder / f"{name}.wasm"
        self.forget(name)
        with contextlib.ExitStack() as opened:
            size = self._storage.content_size(path.stat().st_size)
            # Once here, once where it is read.
            self._check_memory(2 * size, "compiling the workload")
            source = await asyncio.to_thread(self._opened, path)
            target = os.memfd_create("module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            opened.callback(os.close, target)
            compiled = await compile_opened(self._runner, source, os.dup(target), limits, features)
            await asyncio.to_thread(self._seal, target, self._folder / f"{name}.cwasm")
            await asyncio.to_thread(_sync, path)
            opened.pop_all()
        self._compiled[name] = _finished(target)
        return compiled

    async def load(self, name: str, digest: str, description: WorkloadDescription) -> None:
        """As `PlainModules.load`."""
        descriptor = self._compiled.pop(name, -1)
        if descriptor < 0:
            path = self._folder / f"{name}.cwasm"
            try:
                self._check_memory(self._storage.content_size(path.stat().st_size), "the compiled workload")
                descriptor = await asyncio.to_thread(self._opened, path)
            except OSError as error:
                raise ModuleLoadError(f"{path.name}: {error.strerror}") from None
            except RefusalError as refusal:
                if refusal.code is not ErrorCode.SEALED_INVALID:
                    raise
                raise ModuleLoadError(refusal.detail) from None
        await self._runner.load(name, descriptor, digest, description)

    def forget(self, name: str) -> None:
        """Give up what was compiled and not loaded."""
        if (descriptor := self._compiled.pop(name, -1)) >= 0:
            os.close(descriptor)

    def _opened(self, path: Path) -> int:
        """The content of a sealed file, in memory."""
        target = os.memfd_create("module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with path.open("rb", buffering=0) as file:
                reader = self._storage.reader(file.fileno(), path)
                while content := reader.read():
                    write_all(target, content)
        except BaseException:
            os.close(target)
            raise
        return _finished(target)

    def _seal(self, source: int, path: Path) -> None:
        with path.open("xb", buffering=0) as file:
            reader, writer = PlainReader(source), self._storage.writer(file.fileno(), path)
            while content := reader.read():
                writer.write(content)
            writer.finish()
            os.fsync(file.fileno())

    def _check_memory(self, size: int, what: str) -> None:
        if size > self._room:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED,
                f"{what} takes {size} bytes of memory, and the keep's `limits.memory` leaves {self._room}",
                remedy="create a keep with more memory, or one with `at_rest` `plain`",
            )


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """The disk's errors as refusals."""
    try:
        yield
    except OSError as error:
        raise RefusalError(ErrorCode.DISK_FULL, f"the workload could not be stored: {error.strerror}") from None


def _finished(memfd: int) -> int:
    # Runs are forks of the process that maps it: one that breaks out must not change the next one's code.
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    return memfd


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
