"""Ways to a TPM that carry plain commands and responses: a device of the kernel, or a socket."""

from __future__ import annotations

import os
import socket
import stat
from typing import Protocol

from app_loader.attesters.tpm_wire import TpmError

_HEADER = 10
RESPONSE_LIMIT = 4096
"""Bytes of the longest response that a TPM gives."""


class Transport(Protocol):
    """A way to one TPM. Not for use by two threads at a time."""

    def transmit(self, command: bytes) -> bytes:
        """The TPM's response. Raises `OSError`."""
        ...

    def close(self) -> None: ...


class DeviceTransport:
    """/dev/tpmrm0: the kernel keeps this descriptor's objects apart from others' and flushes them at close."""

    def __init__(self, path: str = "/dev/tpmrm0") -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def transmit(self, command: bytes) -> bytes:
        os.write(self._descriptor, command)
        return os.read(self._descriptor, RESPONSE_LIMIT)

    def close(self) -> None:
        os.close(self._descriptor)


class DescriptorTransport:
    """A device or a connected socket that somebody else has opened; it stays open when this is closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)

    def transmit(self, command: bytes) -> bytes:
        os.write(self._descriptor, command)
        response = os.read(self._descriptor, RESPONSE_LIMIT)
        # A device answers at once and whole, a stream as it likes.
        while self._is_socket and len(response) < _announced(response):
            piece = os.read(self._descriptor, RESPONSE_LIMIT)
            if not piece:
                raise TpmError("the TPM closed the connection within a response")
            response += piece
        return response

    def close(self) -> None:
        """Nothing: whoever opened it closes it."""


def _announced(response: bytes) -> int:
    """How long the response is that begins so; at least a header."""
    if len(response) < _HEADER:
        return _HEADER
    size = int.from_bytes(response[2:6], "big")
    if not _HEADER <= size <= RESPONSE_LIMIT:
        raise TpmError(f"the TPM announces a response of {size} bytes")
    return size


class SocketTransport:
    """A socket that carries plain commands and responses, as swtpm's; `address` is a UNIX path or (host, port)."""

    def __init__(self, address: str | tuple[str, int], *, timeout_seconds: float = 30.0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def transmit(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        header = self._receive(10)
        size = int.from_bytes(header[2:6], "big")
        if not 10 <= size <= RESPONSE_LIMIT:
            raise TpmError(f"the TPM announces a response of {size} bytes")
        return header + self._receive(size - 10)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            piece = self._socket.recv(size - len(received))
            if not piece:
                raise TpmError("the TPM closed the connection within a response")
            received += piece
        return received
