"""A measured machine and its sealed state: another image or another TPM does not get at it, and does not harm it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_image.manifest import INITRAMFS, KERNEL, MANIFEST
from tests.system.conftest import bootable
from tests.system.deployment import Deployment, one_supervisor, running
from tests.system.test_machines import changed_image, create, expecting, needs_swtpm, state_of

pytestmark = one_supervisor


@pytest.fixture
def image(guest_image: Path, tmp_path: Path) -> Path:
    """An image of this test's own."""
    return Path(shutil.copytree(bootable(guest_image), tmp_path / "image"))


@pytest.fixture
def machines(supervisor: str, image: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor, image) as new:
        yield new


def test_a_measured_machine_opens_its_state_by_its_own_tpm_and_image_alone(
    machines: Deployment, image: Path, tmp_path: Path
) -> None:
    needs_swtpm()
    keep = create(machines, "qemu+vtpm")
    tpm = state_of(machines, keep) / "tpm"

    def trust() -> None:
        machines.keepctl("trust", keep, *expecting(image))

    def refusal() -> str:
        refused = machines.keepctl("get", keep, "/data/kept", "-", check=False)
        assert refused.returncode != 0
        return refused.stderr

    trust()
    machines.keepctl("put", keep, "-", "/data/kept", input="of this machine")
    machines.keepctl("stop", keep)
    original = Path(shutil.copytree(image, tmp_path / "original"))
    impostor = changed_image(image, tmp_path / "impostor")
    replace_image(image, impostor)
    machines.keepctl("start", keep)
    # Its owner demands the image that was seen; only who trusts the other one is told by the keep.
    assert "PCR 9" in refusal()
    of_files = machines.keepctl("trust", keep, *expecting(original), check=False)
    assert of_files.returncode != 0
    assert "PCR 9" in of_files.stdout + of_files.stderr
    trust()
    said = refusal()
    assert "the TPM does not give the key" in said
    assert "its registers change with the image and the spec" in said

    machines.keepctl("stop", keep)
    replace_image(image, original)
    tpm.rename(tmp_path / "tpm")
    machines.keepctl("start", keep)
    assert "attestation" in refusal()
    trust()
    assert "the TPM does not give the key" in refusal()

    machines.keepctl("stop", keep)
    tpm.rename(tmp_path / "other")
    (tmp_path / "tpm").rename(tpm)
    machines.keepctl("start", keep)
    trust()
    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == "of this machine"


def replace_image(image: Path, other: Path) -> None:
    for name in (KERNEL, INITRAMFS, MANIFEST):
        shutil.copyfile(other / name, image / name)
