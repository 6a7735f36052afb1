"""Root keys by the firmware of AMD SEV-SNP: MSG_KEY_REQ (SNP firmware ABI, 7.2) through /dev/sev-guest."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app_loader.libcrypto_aead import hkdf_sha256
from app_loader.sealing.errors import SealingError, SealingUnavailableError
from app_loader.sealing.root_keys import ROOT_KEY_SIZE, check_selectors, key_id
from keep_protocol.sealing_api import KeyKind, Selector

DEVICE: Final = Path("/dev/sev-guest")
SNP_GET_DERIVED_KEY: Final = 0xC0205301
"""include/uapi/linux/sev-guest.h"""

_ENVELOPE: Final = struct.Struct("<B7xQQQ")
"""struct snp_guest_request_ioctl: message version, request, response, error of firmware (low half) and host (high)."""
_REQUEST: Final = struct.Struct("<IIQIIQ")
"""struct snp_derived_key_req: root_key_select, reserved, guest_field_select, vmpl, guest_svn, tcb_version."""
_RESPONSE_SIZE: Final = 4000
"""The kernel copies 64 bytes, a status and behind 28 reserved bytes the key; the room is that of all its answers."""
_KEY_OFFSET: Final = 32
_BUSY: Final = 2
_ATTEMPTS: Final = 5

_VCEK: Final = 1 << 1
_VLEK: Final = 2 << 1
"""KEY_SEL, bits 1 and 2 of root_key_select. VCEK is of this chip, VLEK of the provider's whole fleet."""
_FIELD_POLICY: Final = 1 << 0
_FIELD_MEASUREMENT: Final = 1 << 3

_POSSIBLE: Final = frozenset({Selector.MEASUREMENT, Selector.CHIP, Selector.KEEP})
_INFO: Final = b"keep-seal-v1|snp|"

Ioctl = Callable[[int, bytearray], None]
"""Performs a request of this number over the envelope, in place. Raises `OSError`."""


class SnpDerivedKey:
    """A key that exists only in guests with the same policy and whatever else is selected.

    The guest's policy (no debugging) is always mixed in. TCB and SVN are not, so that updates don't lock data away.
    """

    kind = KeyKind.SNP
    usual: tuple[Selector, ...] = (Selector.CHIP, Selector.KEEP, Selector.MEASUREMENT)

    def __init__(self, keep: str, spec_sha256: bytes, ioctl: Ioctl | None = None) -> None:
        """Raises `SealingError`, also where there is no device."""
        if ioctl is None:
            if not DEVICE.exists():
                raise SealingUnavailableError(f"{DEVICE} does not exist: this is no SNP guest, or has no driver for it")
            ioctl = _ioctl
        self._ioctl = ioctl
        # The host chooses id and spec: who it lets in as another owner under the same id gets another key.
        self._keep = keep.encode() + b"|" + spec_sha256
        # Of this chip and policy; nothing that is sealed uses this derivation.
        self.id = key_id(self._request(_VCEK, _FIELD_POLICY))

    def derive(self, selectors: tuple[Selector, ...]) -> bytes:
        check_selectors(self.kind, _POSSIBLE, selectors)
        fields = _FIELD_POLICY | (_FIELD_MEASUREMENT if Selector.MEASUREMENT in selectors else 0)
        secret = self._request(_VCEK if Selector.CHIP in selectors else _VLEK, fields)
        bound = self._keep if Selector.KEEP in selectors else b""
        return hkdf_sha256(secret, salt=b"", info=_INFO + ",".join(sorted(selectors)).encode() + b"|" + bound)

    def _request(self, root: int, fields: int) -> bytes:
        for _ in range(_ATTEMPTS):
            request = ctypes.create_string_buffer(_REQUEST.pack(root, 0, fields, 0, 0, 0), _REQUEST.size)
            response = ctypes.create_string_buffer(_RESPONSE_SIZE)
            envelope = bytearray(_ENVELOPE.pack(1, ctypes.addressof(request), ctypes.addressof(response), 0))
            try:
                self._ioctl(SNP_GET_DERIVED_KEY, envelope)
            except OSError as error:
                *_, fault = _ENVELOPE.unpack(envelope)
                if fault >> 32 == _BUSY:
                    continue
                raise SealingError(f"{DEVICE}: {error.strerror} (firmware and host say {fault:#x})") from None
            status = int.from_bytes(response.raw[:4], "little")
            secret = response.raw[_KEY_OFFSET : _KEY_OFFSET + ROOT_KEY_SIZE]
            ctypes.memset(response, 0, _RESPONSE_SIZE)
            if status or not any(secret):
                raise SealingError(f"the SNP firmware derived no key: status {status:#x}")
            return secret
        raise SealingError(f"{DEVICE}: the host stayed busy, {_ATTEMPTS} times")


def _ioctl(number: int, envelope: bytearray) -> None:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, number, envelope)
    finally:
        os.close(descriptor)
