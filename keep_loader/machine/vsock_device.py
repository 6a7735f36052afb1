"""A vsock device for one machine without the host's kernel: vhost-device-vsock, which speaks vhost-user with QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.children import Child
from keep_loader.machine.dialling import HybridVsockAddress
from keep_protocol.guest_control import VSOCK_PORT

_FOLDER: Final = "vsock"
_DEVICE: Final = "device"
_CONNECTIONS: Final = "connections"
_CONTEXT: Final = 3
"""The guest's address: each such device is a world of its own."""

_GUESTS_CREDIT: Final = 28 * 1024
"""Bytes that the guest may have on their way. Linux sends larger packets than 32 KiB in several descriptors, of which
vhost-device-vsock 0.3.0 takes one: then nothing comes from the guest any more."""

_START_SECONDS: Final = 5.0
_PAUSE: Final = 0.01


@dataclass(frozen=True, slots=True)
class VsockDevice:
    """The running program, and where it lets the host in."""

    child: Child
    address: HybridVsockAddress
    folder: int
    """Keeps the address reachable."""
    path: Path

    def close(self) -> None:
        """Remove its sockets."""
        os.close(self.folder)
        _clear(self.path)


async def start(program: str, state: Path) -> tuple[VsockDevice, socket.socket]:
    """The device, and QEMU's end of its socket. Its sockets lie in a folder in `state`. Raises `MachineError`."""
    path = state / _FOLDER
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            _clear(path)
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise MachineError(f"no vsock device can be made: {path}: {error.strerror}") from None
        stack.callback(os.close, folder)
        # The path of a UNIX socket is short, and that of a state folder need not be.
        short = f"/proc/self/fd/{folder}"
        options = (
            f"guest-cid={_CONTEXT},socket={short}/{_DEVICE},uds-path={short}/{_CONNECTIONS},"
            f"tx-buffer-size={_GUESTS_CREDIT}"
        )
        child = Child("vhost-device-vsock", [program, "--vm", options], [folder])
        try:
            connection = await _connected(child, f"{short}/{_DEVICE}")
        except BaseException:
            await child.end(0)
            raise
        stack.pop_all()
    address = HybridVsockAddress(f"{short}/{_CONNECTIONS}", VSOCK_PORT)
    return VsockDevice(child, address, folder, path), connection


async def _connected(child: Child, path: str) -> socket.socket:
    """It says nothing when it listens, so it is tried."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while child.status is None:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    connection.connect(path)
                    return connection
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        connection.close()
        raise MachineError(f"channel-died: vhost-device-vsock does not listen within {_START_SECONDS:g} s") from None
    connection.close()
    said = " ".join(child.said.last_lines(1))[:300]
    raise MachineError(f"channel-died: vhost-device-vsock ended at once: {said}")


def _clear(path: Path) -> None:
    for name in (_DEVICE, _CONNECTIONS):
        with contextlib.suppress(OSError):
            (path / name).unlink()
