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


def receive(asked: socket.socket, service_manager: ServiceManager) -> tuple[socket.socket, Configuration]:
    """The listening socket and the configuration that the manager was asked for.

    They go into the descriptor store at once, so that no later restart needs the manager. Raises `HandoverError`.
    """
    with asked:
        listen, configuration = _answer(asked)
    service_manager.store(LISTEN_FD, listen)
    service_manager.store(CONFIGURATION_FD, configuration, poll=False)
    decoded = _read_configuration(configuration)
    return _listener(listen), decoded


def is_stored(descriptors: dict[str, int]) -> bool:
    """Whether an earlier life of this unit has left all that there is to hand over."""
    return LISTEN_FD in descriptors and CONFIGURATION_FD in descriptors


def restore(descriptors: dict[str, int]) -> tuple[socket.socket, Configuration]:
    """The listening socket and the configuration that `is_stored`. Raises `HandoverError`."""
    decoded = _read_configuration(descriptors[CONFIGURATION_FD])
    return _listener(descriptors[LISTEN_FD]), decoded


def _answer(connection: socket.socket) -> tuple[int, int]:
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 2)
        answer = decode_strictly(message, Handover)
    except OSError as error:
        raise _no_answer(error) from error
    except msgspec.MsgspecError as error:
        raise HandoverError(f"the manager's answer is malformed: {error}") from error
    if answer.result != "ok":
        raise HandoverError(f"the manager refused the hand-over: {answer.reason}")
    if len(descriptors) != 2:
        raise HandoverError(f"the manager sent {len(descriptors)} descriptors, not a socket and a configuration")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors[0], descriptors[1]


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
