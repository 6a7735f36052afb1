"""The driver of /dev/nsm (drivers/misc/nsm.c, NSM_IOCTL_RAW) with a module behind it that answers in CBOR."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import cbor2

RAW = 0xC0200A00
MAX_REQUEST = 0x1000


class FakeNsm:
    """Stands in for `fcntl.ioctl`. `answer` makes the module's answer from a decoded request."""

    def __init__(self, answer: Callable[[Any], bytes], *, tells_size: bool = True) -> None:
        self._answer = answer
        self._tells_size = tells_size
        self.requests: list[Any] = []
        self.encoded: list[bytes] = []

    def __call__(self, descriptor: int, number: int, message: ctypes.Structure) -> int:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == "/dev/null"
        assert number == RAW
        assert ctypes.sizeof(message) == number >> 16 & 0x3FFF == 32
        request, request_size, response, response_size = struct.unpack("<QQQQ", bytes(message))
        if request_size > MAX_REQUEST:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        assert response_size == 0x3000
        encoded = ctypes.string_at(request, request_size)
        self.encoded.append(encoded)
        self.requests.append(cbor2.loads(encoded))
        answer = self._answer(self.requests[-1])[:response_size]
        ctypes.memmove(response, answer, len(answer))
        if self._tells_size:
            ctypes.memmove(ctypes.addressof(message) + 24, struct.pack("<Q", len(answer)), 8)
        return 0
