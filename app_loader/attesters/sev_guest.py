"""SNP reports from /dev/sev-guest, for kernels before configfs-tsm (include/uapi/linux/sev-guest.h)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app_loader.attesters.certificate_table import endorsements_of_table
from app_loader.attesters.interface import Attestation, Statement
from app_loader.errors import AttesterError
from keep_protocol.evidence import EvidenceKind

DEVICE: Final = Path("/dev/sev-guest")
_GET_EXTENDED_REPORT: Final = 0xC0205302
_ENVELOPE: Final = struct.Struct("<B7xQQQ")
"""struct snp_guest_request_ioctl: message version, request, response, error of firmware (low half) and host (high)."""
_REQUEST: Final = struct.Struct("<64sI28xQI4x")
"""struct snp_ext_report_req: report data, vmpl, address and size of the buffer for certificates."""
_RESPONSE_SIZE: Final = 4000
"""What the kernel writes; shorter buffers are overrun."""
_RESPONSE_HEAD: Final = struct.Struct("<II24x")
_REPORT_SIZE: Final = 1184
_CERTIFICATES_SIZE: Final = 16 * 1024
"""The kernel's SEV_FW_BLOB_MAX_SIZE: it answers EINVAL to larger buffers and to parts of pages."""
_BUFFER_TOO_SMALL: Final = 1
_BUSY: Final = 2
_ATTEMPTS: Final = 5

Ioctl = Callable[[int, bytearray], None]
"""Performs a request of this number over the envelope, in place. Raises `OSError`."""


class SevGuestAttester:
    """SNP reports by ioctl."""

    kind = EvidenceKind.SNP

    def __init__(self, ioctl: Ioctl | None = None) -> None:
        """Raises `AttesterError` where there is no device."""
        if ioctl is None:
            if not DEVICE.exists():
                raise AttesterError(f"{DEVICE} does not exist: this is no SNP guest, or its driver is not loaded")
            ioctl = _ioctl
        self._ioctl = ioctl

    def attest(self, statement: Statement) -> Attestation:
        for _ in range(_ATTEMPTS):
            certificates = ctypes.create_string_buffer(_CERTIFICATES_SIZE)
            response = ctypes.create_string_buffer(_RESPONSE_SIZE)
            request = ctypes.create_string_buffer(
                _REQUEST.pack(statement.report_data, 0, ctypes.addressof(certificates), _CERTIFICATES_SIZE)
            )
            envelope = bytearray(_ENVELOPE.pack(1, ctypes.addressof(request), ctypes.addressof(response), 0))
            try:
                self._ioctl(_GET_EXTENDED_REPORT, envelope)
            except OSError as error:
                *_, fault = _ENVELOPE.unpack(envelope)
                if fault >> 32 == _BUSY:
                    continue
                if fault >> 32 == _BUFFER_TOO_SMALL:
                    raise AttesterError(
                        f"{DEVICE}: the host's certificate table is larger than {_CERTIFICATES_SIZE} bytes, the most "
                        "that the kernel hands on"
                    ) from None
                raise AttesterError(f"{DEVICE}: {error.strerror} (firmware and host say {fault:#x})") from None
            status, size = _RESPONSE_HEAD.unpack_from(response.raw)
            if status or size != _REPORT_SIZE:
                raise AttesterError(f"the SNP firmware made no report: status {status:#x}, {size} bytes")
            report = response.raw[_RESPONSE_HEAD.size : _RESPONSE_HEAD.size + _REPORT_SIZE]
            table = certificates.raw
            return Attestation(report, endorsements_of_table(table) if table.strip(b"\0") else None)
        raise AttesterError("the host stayed busy, five times")


def _ioctl(number: int, envelope: bytearray) -> None:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, number, envelope)
    finally:
        os.close(descriptor)
