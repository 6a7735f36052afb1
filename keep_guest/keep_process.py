"""The process of the keep inside its machine: gives up root, then is the app-loader; tells init by a socket."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keep_guest.machine import HOST_FILES, STATE
from keep_guest.system import become
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import (
    ALIVE_SECONDS,
    VSOCK_PORT,
    Alive,
    Failed,
    GuestChannel,
    GuestConfiguration,
    GuestEvent,
    Published,
    Ready,
    decode_event,
    encode_line,
)
from keep_protocol.handover import TPM_FD

KEEP_USER: Final = 1000
CLIENTS: Final = "/run/clients.sock"
"""Where the app-loader accepts what the data channel brings."""

BROKER: Final = Path("/run/broker.sock")
"""Where the app-loader asks for its network; init listens there when the spec names any."""
_TPM: Final = "/dev/tpmrm0"
_NITRO_MODULE: Final = "/dev/nsm"
_MAX_EVENT: Final = 256 * 1024
_BACKLOG: Final = 128


@dataclass
class KeepProcess:
    """The keep's process as init sees it."""

    pid: int
    events: socket.socket
    """Readable when the process has something to tell, or is gone."""
    silent: bool = False
    """Whether it will never tell anything more."""

    def next_event(self) -> GuestEvent | None:
        """What it tells; None when there is nothing now, or nothing more."""
        try:
            packet = self.events.recv(_MAX_EVENT)
        except (BlockingIOError, InterruptedError):
            return None
        self.silent = not packet
        return decode_event(packet) if packet else None

    def stop(self) -> None:
        """Ask it to end in good order."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


def start_keep(
    told: GuestConfiguration,
    evidence: EvidenceKind | None,
    group: Path,
    *,
    private: tuple[int, ...],
    rehearsed: bool,
) -> KeepProcess:
    """Fork the process of the keep into its control group, without init's `private` descriptors.

    `rehearsed`: as for `app_loader.main.run`. Raises `OSError`.
    """
    listener = _listen(told.channel)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MAX_EVENT)
    pid = os.fork()
    if pid == 0:
        ours.close()
        for descriptor in private:
            os.close(descriptor)
        _live(told, evidence, group, listener, theirs, rehearsed)
    theirs.close()
    listener.close()
    ours.setblocking(False)
    return KeepProcess(pid, ours)


def _listen(channel: GuestChannel) -> socket.socket:
    if channel is GuestChannel.VSOCK:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, VSOCK_PORT))
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(CLIENTS)
    listener.listen(_BACKLOG)
    return listener


def _live(
    told: GuestConfiguration,
    evidence: EvidenceKind | None,
    group: Path,
    listener: socket.socket,
    events: socket.socket,
    rehearsed: bool,
) -> None:
    """Never returns."""
    status = 1
    try:
        (group / "cgroup.procs").write_text("0")
        devices = {TPM_FD: os.open(_TPM, os.O_RDWR | os.O_CLOEXEC)} if evidence is EvidenceKind.TPM else {}
        os.chown(STATE, KEEP_USER, KEEP_USER)
        if evidence is EvidenceKind.NITRO:
            os.chown(_NITRO_MODULE, KEEP_USER, KEEP_USER)
        # Reports of TDX are made in configfs, whose files belong to root whoever makes the folder.
        become(0 if evidence is EvidenceKind.TDX else KEEP_USER)
        status = _serve(told, listener, devices, events, rehearsed)
    except BaseException as error:
        with suppress(OSError):
            events.send(encode_line(Failed(f"{type(error).__name__}: {error}"[:4096])))
    finally:
        os._exit(status)


def _serve(
    told: GuestConfiguration,
    listener: socket.socket,
    devices: dict[str, int],
    events: socket.socket,
    rehearsed: bool,
) -> int:
    # Only here: init itself stays small.
    from app_loader.main import run

    published = False

    def publish(certificate: str) -> None:
        nonlocal published
        event = Published(certificate) if published else Ready(certificate)
        published = True
        events.send(encode_line(event))

    return run(
        configuration=told.configuration,
        listener=listener,
        devices=devices,
        state=STATE,
        host=HOST_FILES,
        broker=BROKER,
        invocation=told.invocation,
        publish=publish,
        heartbeat=lambda: _beat(events),
        heartbeat_interval=ALIVE_SECONDS,
        rehearsed=rehearsed,
    )


def _beat(events: socket.socket) -> None:
    # A beat that finds no room is one of many.
    with suppress(BlockingIOError):
        events.send(encode_line(Alive()), socket.MSG_DONTWAIT)
