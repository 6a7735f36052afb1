"""Our own kernel, where one was compiled: it boots measured, proves the image it is of, and runs a workload."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_attestation.ratls.peer import ExpectedKeep
from keep_client import KeepClient, KeepPin, new_spec
from keep_client.credentials import Credentials
from keep_image.build import build_image
from keep_image.errors import ImageError
from keep_image.kernel_tools import kernel_tools
from keep_image.manifest import load_manifest
from keep_image.own_kernel import KernelStore, kernel_folder, recipe
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import load_pins
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import Alive, Stop, Stopped
from keep_protocol.keep_api import RunRequest
from keep_protocol.spec import canonical, spec_digest
from testers.keepctl.attestation.image_policy import ExpectedImage, PolicyOfAnImage
from testers.keepctl.attestation.observation import observe
from tests.guest_machine import KEEP_ID, await_ready, configuration, running_machine
from tests.system.deployment import example
from tests.unit.app_loader.pki import self_signed

MEMORY = 320


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with the kept kernel; it is never compiled for a test."""
    pins = load_pins()
    try:
        kernel = KernelStore(kernel_folder(default_cache())).require(recipe(pins.kernel_source, kernel_tools()))
        build_image(tmp_path / "image", pins, PackageStore(default_cache()), kernel=kernel)
    except ImageError as error:
        pytest.skip(str(error))
    return tmp_path / "image"


def test_a_keep_on_our_kernel_proves_its_image_and_runs_a_workload(image: Path, tmp_path: Path) -> None:
    manifest = load_manifest(image)
    assert manifest.kernel_release.endswith("-keep")
    assert not [content.path for content in manifest.contents if content.path.endswith(".ko")]
    owner = self_signed()
    spec = new_spec(principals=[owner.pinned()], evidence=EvidenceKind.TPM)
    digest = spec_digest(canonical(spec))
    path = owner.write(tmp_path)
    credentials = Credentials(path, path)
    with running_machine(image, memory=MEMORY, measured=True) as machine:
        machine.tell(configuration(spec))
        certificate = await_ready(machine)
        forwarder = machine.forward()
        try:
            tables = ExpectedImage(folder=image, memory=MEMORY << 20, allow_software_tpm=True).tables(
                EvidenceKind.TPM, digest
            )
            policy = PolicyOfAnImage(name="image", image=tables, allow_software_tpm=True)
            expected = ExpectedKeep(keep=KEEP_ID, spec_sha256=bytes.fromhex(digest))
            observed = observe(forwarder.endpoint, credentials, policy, expected)
            assert observed.verdict is not None
            assert observed.verdict.accepted, observed.verdict
            pin = KeepPin.from_certificate(certificate)
            with KeepClient(forwarder.endpoint, pin, credentials=credentials) as client:
                client.load_workload(example("hello"))
                run = client.start_run(RunRequest(), wait=50)
                assert b"".join(client.output(run.id, "stdout", follow=True)) == b"Hello, world!\n"
        finally:
            forwarder.close()
        machine.tell(Stop())
        while isinstance(event := machine.next_event(), Alive):
            pass
        assert event == Stopped()
        assert machine.wait() == 0
