"""Keeps that are virtual machines, on a real deployment with a real QEMU: made, used, broken, and found again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keep_image.manifest import INITRAMFS, MANIFEST, described, encode_manifest, load_manifest
from tests.system.deployment import Deployment, eventually, example

MEMORY = "320M"
BOOT = 240.0
"""Seconds that a translated machine may take on a machine that has other things to do."""


def serve(home: Path, image: Path, supervisor: str) -> Deployment:
    """A running deployment whose machines start from `image`."""
    deployment = Deployment(home, supervisor)
    deployment.init()
    settings = home / "config" / "wasmkeep.toml"
    settings.write_text(re.sub("^# image = .*$", f'image = "{image}"', settings.read_text(), flags=re.MULTILINE))
    deployment.serve()
    return deployment


@pytest.fixture
def machines(supervisor: str, guest_image: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="wk") as home:
        deployment = serve(Path(home) / "home", guest_image, supervisor)
        try:
            yield deployment
        finally:
            deployment.down()


def create(deployment: Deployment, backend: str, *options: str) -> str:
    """The id of a new keep."""
    keep: str = deployment.create("--backend", backend, "--memory", MEMORY, *options)["id"]
    return keep


def programs(deployment: Deployment, name: str) -> list[int]:
    """The pids of a machine's programs of this deployment: children of its keeps' processes."""
    found = []
    for keep in deployment.keep_mains():
        children = Path(f"/proc/{keep}/task/{keep}/children").read_text().split()
        found += [int(pid) for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def runs_hello(deployment: Deployment, keep: str) -> bool:
    result = deployment.keepctl("run", "--keep", keep, str(example("hello")), check=False)
    return result.stdout == "Hello, world!\n"


def is_ready_again(deployment: Deployment, keep: str, restarts: int) -> bool:
    found = deployment.keep(keep)
    return bool(found["state"] == "ready" and found["restarts"] >= restarts)


def test_a_machine_runs_a_workload_dies_and_comes_back_at_its_endpoint(machines: Deployment) -> None:
    keep = create(machines, "qemu")
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
    assert runs_hello(machines, keep)

    (qemu,) = programs(machines, "qemu-system")
    os.kill(qemu, signal.SIGKILL)
    eventually(lambda: is_ready_again(machines, keep, 1), timeout=BOOT)
    after = machines.keep(keep)
    assert after["endpoint"] == before["endpoint"]
    assert after["invocation"] != before["invocation"]
    assert "qemu-died: QEMU ended with killed by SIGKILL" in machines.keepctl("logs", keep).stdout
    assert runs_hello(machines, keep)

    machines.keepctl("stop", keep)
    assert programs(machines, "qemu-system") == []
    assert machines.keep(keep)["state"] == "stopped"


def test_a_measured_machine_is_proved_before_it_is_used(machines: Deployment, guest_image: Path) -> None:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed: apt-get install swtpm swtpm-tools")
    keep = create(machines, "qemu+vtpm")
    expected = ("--image", str(guest_image), "--memory", MEMORY, "--allow-software-tpm", "--yes")
    machines.keepctl("trust", keep, *expected)
    assert runs_hello(machines, keep)

    (tpm,) = programs(machines, "swtpm")
    os.kill(tpm, signal.SIGKILL)
    eventually(lambda: is_ready_again(machines, keep, 1), timeout=BOOT)
    assert "tpm-died: swtpm ended with killed by SIGKILL" in machines.keepctl("logs", keep).stdout


def test_an_impostor_with_one_changed_byte_is_refused(supervisor: str, guest_image: Path, tmp_path: Path) -> None:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed: apt-get install swtpm swtpm-tools")
    impostor = changed_image(guest_image, tmp_path / "impostor")
    with tempfile.TemporaryDirectory(prefix="wk") as home:
        deployment = serve(Path(home) / "home", impostor, supervisor)
        try:
            keep = create(deployment, "qemu+vtpm")
            expected = ("--image", str(guest_image), "--memory", MEMORY, "--allow-software-tpm", "--yes")
            refused = deployment.keepctl("trust", keep, *expected, check=False)
            assert refused.returncode != 0
            assert "PCR 9" in refused.stdout + refused.stderr
        finally:
            deployment.down()


def test_an_image_that_was_tampered_with_starts_nothing(machines: Deployment, guest_image: Path) -> None:
    initramfs = guest_image / INITRAMFS
    content = initramfs.read_bytes()
    try:
        initramfs.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = machines.keepctl("create", "--backend", "qemu", "--memory", MEMORY, check=False)
    finally:
        initramfs.write_bytes(content)
    assert refused.returncode != 0
    assert "it was changed" in refused.stderr


@pytest.mark.parametrize("backend", ["snp", "tdx", "nitro"])
def test_a_machine_that_this_host_cannot_make_is_refused_with_the_reason(machines: Deployment, backend: str) -> None:
    available = {info["name"]: info["available"] for info in machines.json("backends")["backends"]}
    if available[backend]:
        pytest.skip(f"this host has {backend}")
    refused = machines.keepctl("create", "--backend", backend, "--memory", MEMORY, check=False)
    assert refused.returncode != 0
    assert f"the backend {backend} does not work on this host" in refused.stderr


def test_a_machine_with_too_little_memory_is_refused(machines: Deployment) -> None:
    refused = machines.keepctl("create", "--backend", "qemu", "--memory", "100M", check=False)
    assert refused.returncode != 0
    assert "ask for at least" in refused.stderr


def changed_image(image: Path, folder: Path) -> Path:
    """An image that a host made of another one: a file in its initramfs has one byte more, and the manifest agrees."""
    shutil.copytree(image, folder)
    # Bytes behind an archive's end are not unpacked, so it boots and is another image all the same.
    content = (folder / INITRAMFS).read_bytes() + b"\0\0\0\0"
    (folder / INITRAMFS).write_bytes(content)
    manifest = load_manifest(folder)
    changed = msgspec.structs.replace(manifest, initramfs=described(INITRAMFS, content))
    (folder / MANIFEST).write_bytes(encode_manifest(changed))
    return folder
