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


def take(
    *, stored: dict[str, int], host: Path, instance: str, invocation: str, service_manager: ServiceManager
) -> tuple[socket.socket, Configuration]:
    """The keep's listening socket and its configuration.

    What the manager hands over goes into the descriptor store at once, so that no later restart needs
    the manager. Raises `HandoverError`.
    """
    if LISTEN_FD in stored and CONFIGURATION_FD in stored:
        listen, configuration = stored[LISTEN_FD], stored[CONFIGURATION_FD]
    else:
        listen, configuration = _ask(host / "handover.sock", instance, invocation)
        service_manager.store(LISTEN_FD, listen)
        service_manager.store(CONFIGURATION_FD, configuration, poll=False)
    decoded = _read_configuration(configuration)
    return _listener(listen), decoded


def _ask(path: Path, instance: str, invocation: str) -> tuple[int, int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_DEADLINE)
        hello = Hello(version=PROTOCOL_VERSION, instance=instance, invocation=invocation)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(hello))
            message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 2)
            answer = decode_strictly(message, Handover)
        except OSError as error:
            raise HandoverError(
                f"no hand-over from {path}: {error.strerror or error}; is the keep-manager running?"
            ) from error
        except msgspec.MsgspecError as error:
            raise HandoverError(f"the manager's answer at {path} is malformed: {error}") from error
    if answer.result != "ok":
        raise HandoverError(f"the manager refused the hand-over: {answer.reason}")
    if len(descriptors) != 2:
        raise HandoverError(f"the manager sent {len(descriptors)} descriptors, not a socket and a configuration")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors[0], descriptors[1]


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
