"""Keeps that are virtual machines, on a real deployment with a real QEMU: made, used, broken, and found again."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keep_image.manifest import INITRAMFS, MANIFEST, described, encode_manifest, load_manifest
from keep_loader.machine.disk import DISK_FILE
from tests.system.deployment import GUEST_MEMORY, Deployment, eventually, example, one_supervisor, running
from tests.system.test_secrets import folders_of

BOOT = 240.0
"""Seconds that a translated machine may take on a machine that has other things to do."""

GUEST_BYTES = int(GUEST_MEMORY.removesuffix("M")) << 20
_LINES = re.MULTILINE | re.DOTALL


@pytest.fixture
def machines(fresh_machine_deployment: Deployment) -> Deployment:
    return fresh_machine_deployment


def create(deployment: Deployment, backend: str, *options: str) -> str:
    """The id of a new keep."""
    keep: str = deployment.create("--backend", backend, "--memory", GUEST_MEMORY, *options)["id"]
    return keep


def programs(deployment: Deployment, name: str) -> list[int]:
    """The pids of a machine's programs of this deployment: children of its keeps' processes."""
    found = []
    for keep in deployment.keep_mains():
        children = Path(f"/proc/{keep}/task/{keep}/children").read_text().split()
        found += [int(pid) for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def resident_guest_memory(qemu: int) -> int:
    """Bytes of the guest's memory that the host has given to QEMU."""
    mappings = re.findall(r"^Size: +(\d+) kB$.*?^Rss: +(\d+) kB$", Path(f"/proc/{qemu}/smaps").read_text(), _LINES)
    return next(int(resident) << 10 for size, resident in mappings if int(size) << 10 == GUEST_BYTES)


def runs_hello(deployment: Deployment, keep: str) -> bool:
    result = deployment.keepctl("run", "--keep", keep, str(example("hello")), check=False)
    return result.stdout == "Hello, world!\n"


def is_ready_again(deployment: Deployment, keep: str, restarts: int) -> bool:
    found = deployment.keep(keep)
    return bool(found["state"] == "ready" and found["restarts"] >= restarts)


def test_a_machine_runs_a_workload_dies_and_comes_back_at_its_endpoint_with_its_state(machines: Deployment) -> None:
    keep = create(machines, "qemu")
    kept = f"kept-{secrets.token_hex(16)}"
    machines.keepctl("put", keep, "-", "/data/kept", input=kept)
    assert runs_hello(machines, keep)
    before = machines.keep(keep)
    assert before["backend"] == "qemu"

    if machines.supervisor != "detached":
        sandbox = {line["name"]: line for line in machines.json("show", keep)["sandbox"]}
        assert sandbox["NoNewPrivileges"]["status"] == "verified now"
        assert sandbox["PrivateNetwork"]["status"] == "verified now"
        assert sandbox["RestrictAddressFamilies"]["status"] != "not effective"

    # The manager's death is no business of the machine's.
    machines.kill_manager()
    machines.serve()
    found = machines.keep(keep)
    assert (found["state"], found["pid"], found["invocation"]) == ("ready", before["pid"], before["invocation"])
    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == kept

    (qemu,) = programs(machines, "qemu-system")
    # The kernel, the initramfs and what it was unpacked from have been in more of it.
    eventually(lambda: resident_guest_memory(qemu) < 0.55 * GUEST_BYTES, timeout=BOOT)
    os.kill(qemu, signal.SIGKILL)
    eventually(lambda: is_ready_again(machines, keep, 1), timeout=BOOT)
    after = machines.keep(keep)
    assert after["endpoint"] == before["endpoint"]
    assert after["invocation"] != before["invocation"]
    assert "qemu-died: QEMU ended with killed by SIGKILL" in machines.keepctl("logs", keep).stdout

    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == kept
    assert machines.json("inspect", keep)["kind"] == "command"
    disk = state_of(machines, keep) / DISK_FILE
    machines.keepctl("stop", keep)
    assert programs(machines, "qemu-system") == []
    assert machines.keep(keep)["state"] == "stopped"
    assert contains(disk, b"kept"), "names are no secret, and they are found"
    assert not contains(disk, kept.encode())


def state_of(deployment: Deployment, keep: str) -> Path:
    """The state folder of a machine that runs, as it is outside of its unit."""
    pid = deployment.keep(keep)["pid"]
    return next(folder for folder in folders_of(pid) if (folder / DISK_FILE).exists() and "/root" not in str(folder))


def contains(path: Path, needle: bytes) -> bool:
    # The disk is mostly holes, and too large to be read into memory.
    return subprocess.run(["grep", "-aqF", needle, str(path)], check=False).returncode == 0


@pytest.fixture(scope="module")
def measured(machine_deployment: Deployment) -> Iterator[str]:
    """A keep in a measured machine, for tests that look at it and use it."""
    needs_swtpm()
    keep = create(machine_deployment, "qemu+vtpm")
    yield keep
    machine_deployment.keepctl("rm", keep)


def needs_swtpm() -> None:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed: apt-get install swtpm swtpm-tools")


def expecting(image: Path, memory: str = GUEST_MEMORY) -> tuple[str, ...]:
    """Options of `keepctl trust` for a measured machine of this image."""
    return "--image", str(image), "--memory", memory, "--allow-software-tpm", "--yes"


@one_supervisor
def test_a_measured_machine_is_refused_where_it_was_started_otherwise_than_predicted(
    machine_deployment: Deployment, measured: str, guest_image: Path, tmp_path: Path
) -> None:
    manifest = load_manifest(guest_image)
    other = Path(shutil.copytree(guest_image, tmp_path / "other"))
    changed = msgspec.structs.replace(manifest, command_line=f"{manifest.command_line} debug")
    (other / MANIFEST).write_bytes(encode_manifest(changed))

    def refusal(image: Path, memory: str) -> str:
        refused = machine_deployment.keepctl("trust", measured, *expecting(image, memory), check=False)
        assert refused.returncode != 0
        return refused.stdout + refused.stderr

    assert "PCR 9" in refusal(other, GUEST_MEMORY)
    assert "PCR 4" in refusal(guest_image, "1G")


@one_supervisor
def test_a_measured_machine_is_proved_before_it_is_used(
    machine_deployment: Deployment, measured: str, guest_image: Path
) -> None:
    machine_deployment.keepctl("trust", measured, *expecting(guest_image))
    assert runs_hello(machine_deployment, measured)


def test_an_image_that_was_tampered_with_starts_nothing(supervisor: str, guest_image: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    shutil.copytree(guest_image, image)
    (image / INITRAMFS).write_bytes(with_a_changed_byte((image / INITRAMFS).read_bytes()))
    with tempfile.TemporaryDirectory(prefix="wk") as home:
        with running(Path(home) / "home", supervisor, image) as deployment:
            refused = deployment.keepctl("create", "--backend", "qemu", "--memory", GUEST_MEMORY, check=False)
        assert refused.returncode != 0
        assert "it was changed" in refused.stderr


@pytest.mark.parametrize("backend", ["snp", "tdx", "nitro"])
def test_a_machine_that_this_host_cannot_make_is_refused_with_the_reason(
    machine_deployment: Deployment, backend: str
) -> None:
    available = {info["name"]: info["available"] for info in machine_deployment.json("backends")["backends"]}
    if available[backend]:
        pytest.skip(f"this host has {backend}")
    refused = machine_deployment.keepctl("create", "--backend", backend, "--memory", GUEST_MEMORY, check=False)
    assert refused.returncode != 0
    assert f"the backend {backend} does not work on this host" in refused.stderr


def test_a_machine_with_too_little_memory_is_refused(machine_deployment: Deployment) -> None:
    refused = machine_deployment.keepctl("create", "--backend", "qemu", "--memory", "100M", check=False)
    assert refused.returncode != 0
    assert "ask for at least" in refused.stderr


def changed_image(image: Path, folder: Path) -> Path:
    """An image that boots, whose host has changed a byte of its initramfs and made its manifest agree."""
    shutil.copytree(image, folder)
    content = with_a_changed_byte((folder / INITRAMFS).read_bytes())
    (folder / INITRAMFS).write_bytes(content)
    manifest = msgspec.structs.replace(load_manifest(folder), initramfs=described(INITRAMFS, content))
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


def with_a_changed_byte(initramfs: bytes) -> bytes:
    """The same archive with another year in Python's own copyright notice, which LZ4 leaves as it is."""
    position = initramfs.index(b"Copyright (c) 2001-")
    changed = bytearray(initramfs)
    changed[position + len(b"Copyright (c) 2")] ^= 1
    return bytes(changed)
