"""The driver of /dev/sev-guest (drivers/virt/coco/sev-guest): reads and writes the caller's memory as it does."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

GET_EXTENDED_REPORT = 0xC0205302
MAX_CERTIFICATES = 0x4000
"""SEV_FW_BLOB_MAX_SIZE."""
PAGE = 4096


@dataclass
class FakeSevGuest:
    """A guest's firmware and its host."""

    report: bytes | Callable[[bytes], bytes]
    """The answer, or what makes it from report data."""
    table: bytes = b""
    faults: Iterator[tuple[int, int]] = field(default_factory=lambda: iter(()))
    """What goes wrong, one request after the other: host's error, firmware's error. Then all goes well."""
    status: int = 0
    """In the response of the firmware itself."""
    asked: list[tuple[bytes, int]] = field(default_factory=list)
    """Report data and VMPL of each request."""

    def __call__(self, number: int, envelope: bytearray) -> None:
        if number != GET_EXTENDED_REPORT:
            raise _error(errno.ENOTTY)
        assert len(envelope) == number >> 16 & 0x3FFF == 32, "the size in the request's number is the envelope's"
        assert envelope[1:8] == bytes(7)
        version, request, response, fault = struct.unpack("<B7xQQQ", envelope)
        if version != 1:
            raise _error(errno.EINVAL)
        assert fault == 0
        asked = ctypes.string_at(request, 112)
        report_data, level, reserved = asked[:64], int.from_bytes(asked[64:68], "little"), asked[68:96]
        address, size, padding = struct.unpack("<QI4s", asked[96:112])
        assert reserved == bytes(28)
        assert padding == bytes(4)
        if size > MAX_CERTIFICATES or size % PAGE:
            raise _error(errno.EINVAL)
        self.asked.append((report_data, level))
        host, firmware = next(self.faults, (0, 0))
        if len(self.table) > size:
            host = 1
        if host or firmware:
            envelope[24:32] = struct.pack("<II", firmware, host)
            raise _error({1: errno.ENOSPC, 2: errno.EAGAIN}.get(host, errno.EIO))
        ctypes.memmove(address, self.table, len(self.table))
        report = self.report(report_data) if callable(self.report) else self.report
        answer = struct.pack("<II24x", self.status, len(report)) + report
        # The kernel copies the whole response, whatever the size of the report.
        ctypes.memmove(response, answer.ljust(4000, b"\0"), 4000)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
