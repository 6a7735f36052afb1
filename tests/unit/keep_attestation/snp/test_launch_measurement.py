"""Launch digests, against published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keep_attestation.errors import EndorsementsError
from keep_attestation.snp.launch_measurement import Launch, Monitor, launch_measurement


def test_published_measurements_are_reproduced(vectors: Path) -> None:
    folder = vectors / "snp-measure"
    cases = json.loads((folder / "expected.json").read_bytes())["cases"]
    assert cases
    for case in cases:
        launch = Launch(
            firmware=folder / case["ovmf"],
            vcpus=case["vcpus"],
            cpu_model=case["vcpu_type"],
            # Cases that leave them out were measured with these.
            kernel=Path(case.get("kernel", "/dev/null")),
            initrd=Path(case.get("initrd", "/dev/null")),
            command_line=case["append"],
            guest_features=case["guest_features"],
            monitor=Monitor(case["vmm"].lower()),
            firmware_digest=bytes.fromhex(case["ovmf_hash"]) if case.get("ovmf_hash") else None,
        )
        assert launch_measurement(launch).hex() == case["launch_digest"]


def test_every_part_of_a_launch_changes_its_measurement(vectors: Path, tmp_path: Path) -> None:
    firmware = vectors / "snp-measure" / "ovmf_AmdSev_suffix.bin"
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"kernel")
    launches = [
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4"),
        Launch(firmware=firmware, vcpus=2, cpu_model="EPYC-v4"),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-Genoa"),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", guest_features=0x21),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", kernel=kernel),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", kernel=kernel, command_line="quiet"),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", kernel=kernel, initrd=kernel),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", monitor=Monitor.EC2),
        Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4", firmware_digest=bytes(48)),
    ]
    assert len({launch_measurement(launch) for launch in launches}) == len(launches)


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(4096)])
def test_what_is_no_firmware_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    firmware = tmp_path / "firmware.fd"
    firmware.write_bytes(content)
    with pytest.raises(EndorsementsError, match=r"firmware\.fd"):
        launch_measurement(Launch(firmware=firmware, vcpus=1, cpu_model="EPYC-v4"))


def test_launches_that_cannot_be_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for launch, reason in (
        (Launch(firmware=absent, vcpus=1, cpu_model="EPYC-v4"), "absent cannot be read"),
        (Launch(firmware=absent, vcpus=0, cpu_model="EPYC-v4"), "at least one vCPU"),
        (Launch(firmware=absent, vcpus=1, cpu_model="i486"), "'i486' is no known CPU model"),
        (Launch(firmware=absent, vcpus=1, cpu_model="EPYC-v4", firmware_digest=b"x"), "48 bytes, not 1"),
    ):
        with pytest.raises(EndorsementsError, match=reason):
            launch_measurement(launch)
