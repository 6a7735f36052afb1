"""Takes the listening socket and the configuration: from the descriptor store, else from the manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from keep_loader.errors import HandoverError
from keep_loader.notification import ServiceManager
from keep_protocol.handover import (
    CONFIGURATION_FD,
    DEVICE_FDS,
    LISTEN_FD,
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    Configuration,
    Handover,
    Hello,
)
from keep_protocol.spec import MAX_SPEC_SIZE
from keep_protocol.strict_json import decode_strictly

_DEADLINE = 10.0
_MAX_CONFIGURATION = 2 * MAX_SPEC_SIZE


def ask(host: Path, instance: str, invocation: str) -> socket.socket:
    """Ask the manager for a socket and a configuration; `receive` has its answer. Raises `HandoverError`."""
    path = host / "handover.sock"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    connection.settimeout(_DEADLINE)
    try:
        connection.connect(str(path))
        connection.sendall(
            msgspec.json.encode(Hello(version=PROTOCOL_VERSION, instance=instance, invocation=invocation))
        )
    except OSError as error:
        connection.close()
        raise _no_answer(error) from error
    return connection


class Received(msgspec.Struct, frozen=True):
    """What a keep starts with; `devices` are descriptors by name."""

    listener: socket.socket
    configuration: Configuration
    devices: dict[str, int]


def receive(asked: socket.socket, service_manager: ServiceManager) -> Received:
    """What the manager was asked for.

    They go into the descriptor store at once, so that no later restart needs the manager. Raises `HandoverError`.
    """
    with asked:
        listen, configuration, devices = _answer(asked)
    service_manager.store(LISTEN_FD, listen)
    service_manager.store(CONFIGURATION_FD, configuration, poll=False)
    for name, descriptor in devices.items():
        service_manager.store(name, descriptor, poll=False)
    decoded = _read_configuration(configuration)
    return Received(_listener(listen), decoded, devices)


def is_stored(descriptors: dict[str, int]) -> bool:
    """Whether an earlier life of this unit has left all that there is to hand over."""
    return LISTEN_FD in descriptors and CONFIGURATION_FD in descriptors


def restore(descriptors: dict[str, int]) -> Received:
    """What `is_stored`. Raises `HandoverError`."""
    decoded = _read_configuration(descriptors[CONFIGURATION_FD])
    devices = {name: descriptor for name, descriptor in descriptors.items() if name in DEVICE_FDS}
    return Received(_listener(descriptors[LISTEN_FD]), decoded, devices)


def _answer(connection: socket.socket) -> tuple[int, int, dict[str, int]]:
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 2 + len(DEVICE_FDS))
        answer = decode_strictly(message, Handover)
    except OSError as error:
        raise _no_answer(error) from error
    except msgspec.MsgspecError as error:
        raise HandoverError(f"the manager's answer is malformed: {error}") from error
    if answer.result != "ok":
        raise HandoverError(f"the manager refused the hand-over: {answer.reason}")
    if len(descriptors) != 2 + len(answer.devices):
        raise HandoverError(
            f"the manager sent {len(descriptors)} descriptors, not a socket, a configuration "
            f"and {len(answer.devices)} devices"
        )
    if unknown := set(answer.devices) - DEVICE_FDS:
        raise HandoverError(f"the manager sent a device that is not known here: {min(unknown)!r}")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    listen, configuration, *devices = descriptors
    return listen, configuration, dict(zip(answer.devices, devices, strict=True))


def _no_answer(error: OSError) -> HandoverError:
    return HandoverError(f"no hand-over: {error.strerror or error}; is the keep-manager running?")


def _listener(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    try:
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        listener.close()
        raise HandoverError(f"the descriptor handed over is no socket: {error.strerror}") from error
    if not listening or listener.type != socket.SOCK_STREAM:
        listener.close()
        raise HandoverError("the socket handed over does not listen")
    listener.setblocking(False)
    return listener


def _read_configuration(descriptor: int) -> Configuration:
    raw = os.pread(descriptor, _MAX_CONFIGURATION, 0)
    try:
        return decode_strictly(raw, Configuration)
    except msgspec.MsgspecError as error:
        raise HandoverError(f"the configuration handed over is malformed: {error}") from error
