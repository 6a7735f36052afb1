"""A run whose first descriptors its workload's configuration names: gives them to the guest, and runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from app_loader.errors import EngineError
from app_loader.guest import new_store
from app_loader.module_program import ModuleProgram
from app_loader.preview1.descriptor_table import DescriptorTable
from app_loader.preview1.descriptors import Descriptor, Input, Listener, Null, Output, connection_of
from app_loader.preview1.linking import EXTRA_INSTANCES, EXTRA_MEMORIES, Shim, ShimModules
from app_loader.program import Program
from app_loader.runner_messages import STANDARD_STREAMS, GuestFile, GuestMount, Report
from app_loader.wasmtime_binding import library

_NATIVE = len(STANDARD_STREAMS)
"""Numbers below are WASI's standard streams, whatever is at them."""


class FirstDescriptors:
    """One run's, in the order of its configuration. Takes over the descriptors of `Start`."""

    def __init__(self, files: tuple[GuestFile, ...], streams: tuple[int, int, int], sockets: Iterable[int]) -> None:
        """`sockets` are an empty folder, and then one descriptor for each file that is a socket."""
        self._files = files
        self._given = dict(zip(STANDARD_STREAMS, streams, strict=True))
        self.placeholder, *self._sockets = sockets
        """The empty folder (O_PATH)."""
        self._ours: dict[int, Descriptor] = {}

    def streams(self) -> tuple[int, ...]:
        """What becomes the process's standard streams; all other descriptors are made here."""
        sockets = iter(self._sockets)
        for number, file in enumerate(self._files):
            if number >= _NATIVE or file.kind not in ("null", STANDARD_STREAMS[number]):
                self._ours[number] = self._made(file, sockets)
        streams = tuple(self._stream(number) for number in range(_NATIVE))
        for unused in self._given.values():
            os.close(unused)
        return streams

    def placeholders(self) -> Iterator[tuple[GuestMount, int]]:
        """Folders that keep our numbers in WASI's table. Their names are seen by nobody who asks through libc."""
        for number in range(_NATIVE, max(len(self._files), _NATIVE + 1)):
            yield GuestMount(f"/dev/fd/{number}", writable=False), self.placeholder

    def run(self, program: Program, modules: ShimModules, memory: int, wasi: int) -> Report:
        """Run the guest. `memory` is its limit in bytes; `wasi` is taken over. Raises `EngineError`."""
        if not isinstance(program, ModuleProgram):
            raise EngineError("only modules for WASI preview 1 have sockets")
        store = new_store(program, memory, wasi, extra_instances=EXTRA_INSTANCES, extra_memories=EXTRA_MEMORIES)
        context = library().wasmtime_store_context(store)
        os.close(self.placeholder)
        return program.run(context, memory, Shim(modules, program.linker, context), self._fill)

    def _fill(self, table: DescriptorTable) -> None:
        table.keep_folder(_NATIVE)
        # Wasmtime's standard input reads ahead, and a poll on sockets and standard input would miss what it holds.
        if _kind_at(self._files, 0) == "stdin":
            self._ours[0] = Input(0)
        for number, descriptor in self._ours.items():
            descriptor.preopened = True
            table.put(number, descriptor)

    def _stream(self, number: int) -> int:
        name = STANDARD_STREAMS[number]
        if _kind_at(self._files, number) == name:
            return self._given.pop(name)
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def _made(self, file: GuestFile, sockets: Iterator[int]) -> Descriptor:
        match file.kind:
            case "null":
                return Null()
            case "stdin":
                return Input(os.dup(self._given[file.kind]))
            case "stdout" | "stderr":
                return Output(os.dup(self._given[file.kind]))
            case "listen":
                return Listener(next(sockets))
            case "connect":
                return connection_of(next(sockets))


def _kind_at(files: tuple[GuestFile, ...], number: int) -> str | None:
    return files[number].kind if number < len(files) else None
