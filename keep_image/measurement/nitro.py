"""Predicts PCR 0 to 2 of an AWS Nitro enclave that is started from this kernel and initramfs. Never run on hardware.

Source: AWS Nitro Enclaves user guide, "Where to get an enclave's measurements"; QEMU, hw/core/eif.c: the initramfs is
the image's first and only ramdisk.
"""

from __future__ import annotations

import hashlib

from keep_image.measurement.direct_boot import extended

_BANK = "sha384"


def predict_pcrs(kernel: bytes, initrd: bytes, command_line: str) -> dict[int, bytes]:
    """By number: 0 the whole image, 1 kernel, command line and first ramdisk, 2 all further ramdisks, here none."""
    boot = kernel + command_line.encode() + initrd
    return {0: _register(boot), 1: _register(boot), 2: _register(b"")}


def _register(content: bytes) -> bytes:
    return extended([hashlib.sha384(content).digest()], _BANK)
