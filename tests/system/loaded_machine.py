"""A machine as a keep-loader runs it, in a thread of the test and without a manager: QEMU, its disk, its endpoint."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keep_image.manifest import INITRAMFS, KERNEL, load_manifest
from keep_loader.errors import MachineError
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.launch import Order, launch
from keep_loader.machine.running import RunningMachine
from keep_protocol.guest_control import GuestConfiguration
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD, Accelerator, Machine
from keep_protocol.spec import KeepSpec
from keep_protocol.states import GuestChannel

BOOT = 240.0
"""Seconds that a translated machine may take on a machine that has other things to do."""


def order_of(image: Path, spec: KeepSpec, state: Path, files: dict[str, int]) -> Order:
    """What a keep-loader starts this machine from; `files` are open files of the image."""
    machine = Machine(
        qemu=shutil.which("qemu-system-x86_64") or "",
        accelerator=Accelerator.TCG,
        command_line=load_manifest(image).command_line,
        channel=GuestChannel.SERIAL,
        mke2fs="/usr/sbin/mke2fs",
    )
    return Order(spec, bytes(32), machine, files, state)


async def launched(image: Path, spec: KeepSpec, state: Path, published: list[str]) -> RunningMachine:
    """The machine, started; its certificates are appended to `published`."""
    files = {
        name: os.open(image / path, os.O_RDONLY) for name, path in ((KERNEL_FD, KERNEL), (INITRAMFS_FD, INITRAMFS))
    }
    try:
        programs = await launch(order_of(image, spec, state, files))
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    return RunningMachine(programs, publish=published.append, heartbeat=lambda: None)


class LoadedMachine:
    """A machine that has said that it is ready."""

    def __init__(self, image: Path, spec: KeepSpec, told: GuestConfiguration, state: Path) -> None:
        self._image, self._spec, self._told, self._state = image, spec, told, state
        self._published: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        assert self._ready.wait(BOOT)
        if self._failure is not None:
            self.close()
            raise self._failure

    @property
    def endpoint(self) -> str:
        return "{}:{}".format(*self._listener.getsockname())

    @property
    def certificate(self) -> str:
        return self._published[0]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(BOOT)
        self._loop.close()
        self._listener.close()

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
        self._ready.set()

    async def _serve(self) -> None:
        machine = await launched(self._image, self._spec, self._state, self._published)
        forwarder = Forwarder(self._listener, machine.dial)
        forwarding = asyncio.create_task(forwarder.run())
        stopping = asyncio.create_task(self._over.wait())
        serving = asyncio.create_task(machine.serve(self._told, self._ready.set))
        try:
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await machine.stop()
            await serving
        except MachineError as error:
            raise AssertionError("\n".join([str(error), *machine.last_words()])) from None
        finally:
            for task in (forwarding, stopping, serving):
                task.cancel()
            await asyncio.gather(forwarding, stopping, serving, return_exceptions=True)
            await forwarder.close()
            await machine.close()


@contextmanager
def loaded_machine(image: Path, spec: KeepSpec, told: GuestConfiguration, state: Path) -> Iterator[LoadedMachine]:
    """A machine for the length of the block; it is stopped in good order."""
    machine = LoadedMachine(image, spec, told, state)
    try:
        yield machine
    finally:
        machine.close()
