"""Predicts the PCRs of a measured boot with OVMF and a virtual TPM that depend on the image and on the spec."""

from __future__ import annotations

from keep_image.measurement.direct_boot import DirectBoot, extended
from keep_protocol.guest_control import SPEC_PCR

_BANK = "sha256"


def predict_pcrs(boot: DirectBoot, spec_digest: str | None = None) -> dict[int, list[bytes]]:
    """By number the values that a quote's SHA-256 bank may have.

    PCR 4 is the kernel, PCR 9 command line and initramfs, PCR 11 the spec. What is in the others depends on firmware,
    memory and processors (0), boot variables (1) and Secure Boot (7). Raises `MeasurementError`.
    """
    pcrs = {
        4: [extended(events, _BANK) for events in boot.boot_events(_BANK)],
        9: [extended(events, _BANK) for events in boot.stub_events(_BANK)],
    }
    if spec_digest is not None:
        pcrs[SPEC_PCR] = [extended([bytes.fromhex(spec_digest)], _BANK)]
    return pcrs
