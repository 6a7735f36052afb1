"""What keeps that are virtual machines find again after a restart, whatever ended them; and what they must not find."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_image.manifest import INITRAMFS, KERNEL, MANIFEST
from keep_loader.machine.disk import DISK_FILE
from keep_protocol.spec import MiB
from tests.system.conftest import bootable
from tests.system.deployment import BIN, GUEST_MEMORY, Deployment, eventually, guest, running
from tests.system.test_machines import BOOT, changed_image, create, is_ready_again, one_supervisor, programs
from tests.system.test_secrets import folders_of

pytestmark = one_supervisor


@pytest.fixture
def image(guest_image: Path, tmp_path: Path) -> Path:
    """An image of this test's own."""
    return Path(shutil.copytree(bootable(guest_image), tmp_path / "image"))


@pytest.fixture
def machines(supervisor: str, image: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor, image) as new:
        yield new


def state_of(deployment: Deployment, keep: str) -> Path:
    """The state folder of a machine that runs."""
    pid = deployment.keep(keep)["pid"]
    return next(folder for folder in folders_of(pid) if (folder / DISK_FILE).exists() and "/root" not in str(folder))


def contains(path: Path, needle: bytes) -> bool:
    # The disk is mostly holes, and too large to be read into memory.
    return subprocess.run(["grep", "-aqF", needle, str(path)], check=False).returncode == 0


def test_a_machine_killed_while_it_writes_finds_its_workload_and_files_again(
    machines: Deployment, tmp_path: Path
) -> None:
    keep = create(machines, "qemu")
    kept = f"kept-{secrets.token_hex(16)}"
    machines.keepctl("put", keep, "-", "/data/kept", input=kept)
    machines.keepctl("load", keep, str(guest("read_file")))
    (qemu,) = programs(machines, "qemu-system")
    disk = state_of(machines, keep) / DISK_FILE
    before = disk.stat().st_blocks
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(900 * MiB)
    command = [str(BIN / "keepctl"), "--home", str(machines.home), "put", keep, str(endless), "/data/endless"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as upload:
        eventually(lambda: disk.stat().st_blocks > before + 4096, timeout=60)
        os.kill(qemu, signal.SIGKILL)
        # It would begin again as soon as the keep is back.
        upload.kill()
    eventually(lambda: is_ready_again(machines, keep, 1), timeout=BOOT)
    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == kept
    assert machines.keepctl("get", keep, "/data/endless", "-", check=False).returncode != 0
    shown = machines.json("inspect", keep)
    assert shown["kind"] == "command"
    assert contains(disk, b"kept"), "names are no secret, and they are found"
    assert not contains(disk, kept.encode())


def test_a_measured_machine_opens_its_state_by_its_own_tpm_and_image_alone(
    machines: Deployment, image: Path, tmp_path: Path
) -> None:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed: apt-get install swtpm swtpm-tools")
    keep = create(machines, "qemu+vtpm")
    tpm = state_of(machines, keep) / "tpm"

    def trust() -> None:
        expected = ("--image", str(image), "--memory", GUEST_MEMORY, "--allow-software-tpm", "--yes")
        machines.keepctl("trust", keep, *expected)

    def refusal() -> str:
        refused = machines.keepctl("get", keep, "/data/kept", "-", check=False)
        assert refused.returncode != 0
        return refused.stderr

    trust()
    machines.keepctl("put", keep, "-", "/data/kept", input="of this machine")
    machines.keepctl("stop", keep)
    original = shutil.copytree(image, tmp_path / "original")
    impostor = changed_image(image, tmp_path / "impostor")
    replace_image(image, impostor)
    machines.keepctl("start", keep)
    # Its owner demands the image that was seen; only who trusts the other one is told by the keep.
    assert "PCR 9" in refusal()
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
