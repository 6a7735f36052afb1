"""Predicts PCRs of an AWS Nitro enclave that is started from this kernel and initramfs. Never run on hardware.

Source: AWS Nitro Enclaves user guide, "Where to get an enclave's measurements"; QEMU, hw/core/eif.c: the initramfs is
the image's first and only ramdisk.
"""

from __future__ import annotations

import hashlib

from keep_image.measurement.direct_boot import extended
from keep_protocol.guest_control import ENCLAVE_SPEC_PCR

_BANK = "sha384"


def predict_pcrs(kernel: bytes, initrd: bytes, command_line: str, spec_digest: str | None = None) -> dict[int, bytes]:
    """By number: 0 the whole image, 1 kernel, command line and first ramdisk, 2 all further ramdisks, here none.

    With `spec_digest` (hex) the one that the enclave extends with it and locks.
    """
    boot = kernel + command_line.encode() + initrd
    pcrs = {0: _register(boot), 1: _register(boot), 2: _register(b"")}
    if spec_digest is not None:
        pcrs[ENCLAVE_SPEC_PCR] = extended([bytes.fromhex(spec_digest)], _BANK)
    return pcrs


def _register(content: bytes) -> bytes:
    return extended([hashlib.sha384(content).digest()], _BANK)
