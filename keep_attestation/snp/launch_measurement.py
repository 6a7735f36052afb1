"""Predicts the launch measurement of an SNP guest from its firmware, kernel and virtual machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType

from keep_attestation.errors import EndorsementsError

DIGEST_SIZE = 48


class Monitor(StrEnum):
    """The virtual machine monitor; each lays out the first memory differently."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


_MONITORS = {Monitor.QEMU: VMMType.QEMU, Monitor.EC2: VMMType.ec2, Monitor.GCE: VMMType.gce}

CPU_MODELS = frozenset(CPU_SIGS)
"""QEMU's names of processors, e.g. `EPYC-v4`, `EPYC-Milan`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What an SNP guest is started with."""

    firmware: Path
    """OVMF, built for SEV-SNP."""
    vcpus: int
    cpu_model: str
    """One of `CPU_MODELS`."""
    kernel: Path | None = None
    """Measured only by a firmware that has SNP_KERNEL_HASHES."""
    initrd: Path | None = None
    command_line: str = ""
    guest_features: int = 0x1
    """SEV_FEATURES of the VMSA; bit 0 is SNP itself."""
    monitor: Monitor = Monitor.QEMU
    firmware_digest: bytes | None = None
    """The launch digest after the firmware's own pages, 48 bytes, where the firmware is known by it alone; its
    metadata is then still read from `firmware`."""


def launch_measurement(launch: Launch) -> bytes:
    """MEASUREMENT of a guest that is started so, 48 bytes.

    Raises `EndorsementsError` when a file cannot be read or is no firmware for SEV-SNP.
    """
    signature = CPU_SIGS.get(launch.cpu_model)
    if signature is None:
        raise EndorsementsError(
            f"{launch.cpu_model!r} is no known CPU model; known are {', '.join(sorted(CPU_MODELS))}"
        )
    if launch.vcpus < 1:
        raise EndorsementsError(f"a guest has at least one vCPU, not {launch.vcpus}")
    if launch.firmware_digest is not None and len(launch.firmware_digest) != DIGEST_SIZE:
        raise EndorsementsError(f"a firmware digest has {DIGEST_SIZE} bytes, not {len(launch.firmware_digest)}")
    try:
        digest = snp_calc_launch_digest(
            launch.vcpus,
            signature,
            str(launch.firmware),
            "" if launch.kernel is None else str(launch.kernel),
            "" if launch.initrd is None else str(launch.initrd),
            launch.command_line,
            launch.guest_features,
            (launch.firmware_digest or b"").hex(),
            _MONITORS[launch.monitor],
        )
    except OSError as error:
        raise EndorsementsError(f"{error.filename} cannot be read: {error.strerror}") from None
    # sev-snp-measure checks a firmware's tables by whatever Python raises on the way.
    except Exception as error:
        raise EndorsementsError(f"{launch.firmware} is no firmware for SEV-SNP: {error}") from None
    return bytes(digest)
