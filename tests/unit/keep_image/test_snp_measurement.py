"""Launch digests of SEV-SNP guests, against the tool of others, and what each depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType

from keep_image.errors import MeasurementError
from keep_image.measurement.snp import CPU_MODELS, launch_digest
from tests.unit.keep_image.firmware_of import SEV_SECTIONS, firmware

KERNEL = b"kernel" * 1000
INITRD = b"initrd" * 1000
COMMAND_LINE = "console=ttyS0 quiet"


@pytest.mark.parametrize("cpu_model", CPU_MODELS)
@pytest.mark.parametrize("vcpus", [1, 2, 5])
def test_the_digest_is_the_one_of_sev_snp_measure(tmp_path: Path, cpu_model: str, vcpus: int) -> None:
    if cpu_model not in CPU_SIGS:
        pytest.skip(f"sev-snp-measure does not know {cpu_model} yet")
    files = {"ovmf": firmware(), "kernel": KERNEL, "initrd": INITRD}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = snp_calc_launch_digest(
        vcpus,
        CPU_SIGS[cpu_model],
        str(tmp_path / "ovmf"),
        str(tmp_path / "kernel"),
        str(tmp_path / "initrd"),
        COMMAND_LINE,
        0x1,
        "",
        VMMType.QEMU,
    )
    assert launch_digest(firmware(), KERNEL, INITRD, COMMAND_LINE, vcpus=vcpus, cpu_model=cpu_model) == expected


def test_every_part_of_a_launch_changes_the_digest() -> None:
    def digest(
        image: bytes = firmware(), kernel: bytes = KERNEL, initrd: bytes = INITRD, line: str = "", **more: int
    ) -> bytes:
        return launch_digest(image, kernel, initrd, line, vcpus=more.get("vcpus", 1))

    digests = {
        digest(),
        digest(image=firmware()[:100] + b"X" + firmware()[101:]),
        digest(kernel=KERNEL + b"X"),
        digest(initrd=INITRD + b"X"),
        digest(line="init=/bin/sh"),
        digest(vcpus=2),
    }
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no table of GUIDs"),
        (bytes(100), "no table of GUIDs"),
        (firmware(sev=None), "not metadata for SEV-SNP"),
        (firmware(hash_table=False), "not a table for the kernel's hashes"),
        (firmware(sev=SEV_SECTIONS[:-1]), "no page for the kernel's hashes.*OVMF.amdsev.fd"),
        (firmware(sev=[*SEV_SECTIONS, (0x900000, 0x1000, 9)]), "type 0x9"),
    ],
)
def test_a_firmware_that_would_not_measure_the_kernel_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        launch_digest(content, KERNEL, INITRD, COMMAND_LINE, vcpus=1)


def test_machines_that_cannot_be_are_refused() -> None:
    with pytest.raises(MeasurementError, match="at least one vCPU"):
        launch_digest(firmware(), KERNEL, INITRD, "", vcpus=0)
    with pytest.raises(MeasurementError, match="'i486' is no known CPU model"):
        launch_digest(firmware(), KERNEL, INITRD, "", vcpus=1, cpu_model="i486")
