"""Stands for vhost-device-vsock: takes its options, listens where they say, and answers whom it lets in."""

from __future__ import annotations

import select
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from keep_protocol.guest_control import VSOCK_PORT


def vsock_program(folder: Path) -> str:
    """An executable in `folder` that is this file."""
    program = folder / "vhost-device-vsock"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.unit.keep_loader.machine.fake_vsock_device "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def main(arguments: Sequence[str]) -> None:
    """Echo each connection's first message, when it has asked for its port as it must."""
    flag, options = arguments
    assert flag == "--vm"
    paths = dict(option.split("=") for option in options.split(","))
    listeners = [_listening(paths[name]) for name in ("uds-path", "socket")]
    qemus = []
    while True:
        readable, _, _ = select.select(listeners, [], [])
        for listener in readable:
            connection, _ = listener.accept()
            if listener is listeners[1]:
                qemus.append(connection)
                continue
            with connection:
                asked = connection.recv(64)
                if asked != f"CONNECT {VSOCK_PORT}\n".encode():
                    continue
                connection.sendall(b"OK 1073741824\n")
                connection.sendall(connection.recv(64))


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


if __name__ == "__main__":
    main(sys.argv[1:])
