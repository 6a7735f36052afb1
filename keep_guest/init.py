"""PID 1 of a keep's virtual machine: prepares it, starts the app-loader, moves bytes and messages."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from keep_guest import machine
from keep_guest.control import Control
from keep_guest.data_channel import DataChannel
from keep_guest.errors import GuestError
from keep_guest.keep_process import BROKER, CLIENTS, KeepProcess, start_keep
from keep_guest.ports import open_port
from keep_protocol.channel import DATA_PORT, KEEP_SERVICE, PORT_SERVICE
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import (
    CONTROL_PORT,
    Failed,
    GuestChannel,
    GuestConfiguration,
    GuestControlError,
    Ready,
    Revocations,
    Stop,
    Stopped,
    decode_first,
)
from keep_protocol.machine import CLONED, WITH_DISK
from keep_protocol.spec import KeepSpec, decode_spec, spec_digest

_CONFIGURATION_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.2
"""How soon a port is tried again whose host is gone."""
_QUIET_SECONDS: Final = 1.0
"""How long nothing must have happened before memory is given back: that takes init a while, and nobody waits for it."""
_HARDWARE: Final = frozenset({EvidenceKind.SNP, EvidenceKind.TDX})


def live() -> None:
    """Returns when the keep is over. File systems are mounted already; raises what it failed with."""
    control = Control(open_port(CONTROL_PORT))
    try:
        told, cloned = _await_configuration(control)
        spec = _prepare(told, cloned=cloned)
        group = machine.bounded_group(spec.limits.tasks)
        keep = start_keep(told, spec.evidence, group, private=(control.port,), rehearsed=cloned)
        supervision = _Supervision(control, told, keep, networked=spec.network.names_anything)
        # Encrypted memory cannot be the host's again, and what a clone has not written is its template's.
        supervision.run(give_memory_back=not cloned and spec.evidence not in _HARDWARE)
    except (GuestError, GuestControlError, OSError) as error:
        control.send(Failed(str(error)))
        raise
    finally:
        control.flush()


def _await_configuration(control: Control) -> tuple[GuestConfiguration, bool]:
    """What comes at once in a machine of its own, and in a template's clone when it is woken; whether it is one."""
    first = decode_first(control.await_line(_CONFIGURATION_SECONDS))
    if isinstance(first, GuestConfiguration):
        return first, False
    from keep_guest.template import await_waking

    return await_waking(control), True


def _prepare(told: GuestConfiguration, *, cloned: bool) -> KeepSpec:
    """Everything that must have happened before the keep's process exists. Raises `GuestError`."""
    raw = told.configuration.spec.encode()
    digest = spec_digest(raw)
    # Only here: what most keeps never need is not imported by them.
    from keep_guest.binding import check_launch, extend_spec, extend_spec_in_enclave

    # First of all: nothing that was decided by another spec can then claim this one.
    extend_spec(digest)
    try:
        spec = decode_spec(raw)
    except msgspec.DecodeError as error:
        raise GuestError(f"the spec is not usable: {error}") from None
    if cloned and spec.backend not in CLONED:
        raise GuestError(f"a {spec.backend} machine is never cloned: it proves how it was started")
    # A file system is much for a kernel to believe of a host that it does not trust.
    if told.disk and spec.backend.is_machine and spec.backend not in WITH_DISK:
        raise GuestError(f"a {spec.backend} machine mounts no disk of its host's")
    if spec.evidence is EvidenceKind.NITRO:
        machine.load_modules(spec.evidence.value)
        extend_spec_in_enclave(digest)
    if spec.evidence in _HARDWARE:
        machine.load_modules(spec.evidence.value)
        machine.mount_reports()
        check_launch(spec.evidence, digest)
    if told.channel is GuestChannel.VSOCK and not machine.load_modules("vsock"):
        raise GuestError("the machine has no vsock device, which the host's channel needs")
    if told.disk:
        machine.mount_disk(released=cloned)
    machine.let_read_boot_log()
    _write_revocation_lists(told.revocation_lists)
    return spec


def _write_revocation_lists(pem: str) -> None:
    target = machine.HOST_FILES / "client-crl.pem"
    if not pem:
        target.unlink(missing_ok=True)
        return
    new = target.with_suffix(".new")
    new.write_text(pem)
    new.chmod(0o644)
    # Whoever reads finds the old lists or the new ones, and never a part.
    new.replace(target)


class _Supervision:
    """Init's loop: the control port, the data channel, and the end of the keep's process."""

    def __init__(self, control: Control, told: GuestConfiguration, keep: KeepProcess, *, networked: bool) -> None:
        self._selector = selectors.DefaultSelector()
        self._control = control
        self._control_interest = 0
        self._keep = keep
        self._keep_watched = True
        self._ready = False
        self._stopping = False
        self._reason = ""
        self._data: DataChannel | None = None
        if told.channel is GuestChannel.SERIAL:
            self._data = DataChannel(self._selector, open_port(DATA_PORT), _connect)
            if networked:
                # Most machines have no network.
                from keep_guest.network import NetworkRelay, raise_loopback

                raise_loopback()
                NetworkRelay(self._selector, self._data, BROKER)

    def run(self, *, give_memory_back: bool) -> None:
        """Until the keep's process has ended; its end is told to the host."""
        wake, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ, lambda _: os.read(wake, 4096))
        self._selector.register(self._keep.events, selectors.EVENT_READ, lambda _: self._serve_keep())
        self._watch_control()
        while (status := self._reap()) is None:
            alone = self._control_interest == 0 or (self._data is not None and self._data.broken)
            due = give_memory_back and self._ready
            events = self._selector.select(_RETRY_SECONDS if alone else _QUIET_SECONDS if due else None)
            for key, ready in events:
                serve: Callable[[int], object] = key.data
                serve(ready)
            if due and not events and not alone:
                machine.give_memory_back()
                give_memory_back = False
            if self._control_interest:
                self._watch_control()
            # Only after a pause: a port whose host is gone is always readable.
            if alone and not events:
                self._watch_control()
                if self._data is not None:
                    self._data.retry()
        self._serve_keep()
        self._tell_end(status)

    def _reap(self) -> int | None:
        """The exit status of the keep's process, once it is gone. Orphans of its are reaped as they come."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if ended[0] == self._keep.pid:
                    return os.waitstatus_to_exitcode(ended[1])
        return None

    def _tell_end(self, status: int) -> None:
        if self._stopping and status == 0:
            self._control.send(Stopped())
            return
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        when = "" if self._ready else " before it was ready"
        self._control.send(Failed(self._reason or f"the app-loader ended with {how}{when}"))

    def _serve_keep(self) -> None:
        while (event := self._keep.next_event()) is not None:
            if isinstance(event, Failed):
                # Told when the process is gone: there is one last event, and it is the last.
                self._reason = event.reason
                continue
            self._ready |= isinstance(event, Ready)
            self._control.send(event)
        if self._keep.silent and self._keep_watched:
            self._selector.unregister(self._keep.events)
            self._keep_watched = False

    def _serve_control(self, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            self._control.write()
        if not ready & selectors.EVENT_READ:
            return
        try:
            commands = self._control.commands()
        except GuestControlError as error:
            print(f"init: {error}", file=sys.stderr, flush=True)
            return
        if commands is None:
            # Nobody is connected on the host; the port stays readable and would keep the loop spinning.
            self._selector.unregister(self._control.port)
            self._control_interest = 0
            return
        for command in commands:
            match command:
                case Stop():
                    self._stopping = True
                    self._keep.stop()
                case Revocations():
                    _write_revocation_lists(command.revocation_lists)

    def _watch_control(self) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._control.waiting else 0)
        if wanted == self._control_interest:
            return
        if self._control_interest == 0:
            self._selector.register(self._control.port, wanted, self._serve_control)
        else:
            self._selector.modify(self._control.port, wanted, self._serve_control)
        self._control_interest = wanted


def _connect(service: str) -> socket.socket | None:
    if service.startswith(PORT_SERVICE) and service.removeprefix(PORT_SERVICE).isdecimal():
        from keep_guest.network import connect_port

        return connect_port(int(service.removeprefix(PORT_SERVICE)))
    return _connect_keep() if service == KEEP_SERVICE else None


def _connect_keep() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # An app-loader whose queue is full refuses this client, and does not stop all others.
    connection.setblocking(False)
    try:
        connection.connect(CLIENTS)
    except OSError:
        connection.close()
        raise
    return connection
