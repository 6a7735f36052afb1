"""The guest image: built from its pins, the same anywhere, and a keep in a machine that boots it proves what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_attestation.tpm.policy import TpmPolicy
from keep_client import EvidenceRefusedError, KeepClient, new_spec
from keep_client.attested_peer import AttestedPeer
from keep_client.credentials import Credentials
from keep_image.contents import standard_library_files
from keep_image.ingredients import GUEST_PACKAGES, gather
from keep_image.manifest import Manifest, load_manifest
from keep_image.measurement.reference import MeasuredBackend, Shape, reference_values
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import load_pins
from keep_image.toolchain import Toolchain
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import (
    Alive,
    Failed,
    Stop,
    Stopped,
)
from keep_protocol.keep_api import RunRequest
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from testers.keepctl.attestation.image_policy import ExpectedImage, PolicyOfAnImage
from testers.keepctl.attestation.observation import observe
from tests.guest_machine import (
    KEEP_ID,
    Forwarder,
    GuestMachine,
    await_ready,
    configuration,
    running_machine,
)
from tests.system.deployment import example
from tests.unit.app_loader.pki import Credential, self_signed

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 320
MAX_SIZE = 40_000_000
"""Bytes of kernel and initramfs together."""


@pytest.fixture
def image(guest_image: Path) -> Path:
    return guest_image


@pytest.fixture
def owner() -> Credential:
    return self_signed()


def await_last_event(machine: GuestMachine) -> object:
    while isinstance(event := machine.next_event(), Alive):
        pass
    return event


def test_an_image_is_small_and_has_nothing_but_what_a_keep_needs(image: Path) -> None:
    manifest = load_manifest(image)
    assert manifest.size <= MAX_SIZE
    names = {Path(content.path).name for content in manifest.contents}
    assert not names & {"sh", "bash", "dash", "busybox", "systemd", "apt-get", "dpkg", "cryptography"}
    executables = [content.path for content in manifest.contents if content.path.startswith("usr/bin/")]
    assert executables == ["usr/bin/python3.11"]


def test_the_same_pins_give_the_same_image_under_other_circumstances(image: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from keep_image.build import build_image; "
        "from keep_image.package_store import PackageStore, default_cache; from keep_image.pins import load_pins; "
        "build_image(Path(sys.argv[1]), load_pins(), PackageStore(default_cache()))"
    )
    other = tmp_path / "somewhere" / "else"
    environment = {
        **os.environ,
        "TZ": "Pacific/Chatham",
        "PYTHONHASHSEED": "424242",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", script, str(other)], check=True, cwd=ROOT, env=environment, umask=0o077)
    files = sorted(path.name for path in image.iterdir())
    assert files == sorted(path.name for path in other.iterdir())
    assert [name for name in files if (image / name).read_bytes() != (other / name).read_bytes()] == []


def test_the_list_of_library_files_is_what_the_guests_code_imports(image: Path, tmp_path: Path) -> None:
    pins = load_pins()
    ingredients = gather(pins, PackageStore(default_cache()))
    toolchain = Toolchain(tmp_path, [*ingredients.userland.values(), *ingredients.tools.values()], pins.python)
    wheels = tmp_path / "wheels"
    for path, member in ingredients.wheels.items():
        (wheels / path).parent.mkdir(parents=True, exist_ok=True)
        (wheels / path).write_bytes(member.content)
    tracer = ROOT / "keep_image" / "trace_imports.py"
    imported = set(toolchain.run_python(tracer, GUEST_PACKAGES, path=[wheels, ROOT]).decode().split())
    uuid = {name for name in imported if name.startswith("lib-dynload/_uuid.")}
    assert imported - uuid - set(standard_library_files()) == set()


@pytest.fixture
def spec(owner: Credential) -> KeepSpec:
    return new_spec(principals=[owner.pinned()], evidence=EvidenceKind.TPM)


@pytest.fixture
def machine(image: Path) -> Iterator[GuestMachine]:
    with running_machine(image, memory=MEMORY, measured=True) as machine:
        yield machine


@pytest.fixture
def forwarder(machine: GuestMachine) -> Iterator[Forwarder]:
    forwarder = machine.forward()
    yield forwarder
    forwarder.close()


def predicted(image: Path, digest: str) -> dict[str, tuple[str, ...]]:
    """PCRs by number, from the image's files alone."""
    shape = Shape(backend=MeasuredBackend.VTPM, memory=MEMORY << 20, spec_digest=digest)
    pcrs = reference_values(image, shape)["tpm"]["pcrs"]["sha256"]
    return {number: tuple(values) for number, values in pcrs.items()}


def test_a_measured_keep_proves_the_image_and_the_spec_and_serves_its_owner(
    image: Path, machine: GuestMachine, forwarder: Forwarder, spec: KeepSpec, owner: Credential, tmp_path: Path
) -> None:
    machine.tell(configuration(spec))
    await_ready(machine)
    path = owner.write(tmp_path)
    credentials = Credentials(path, path)
    digest = spec_digest(canonical(spec))
    expected = ExpectedKeep(keep=KEEP_ID, spec_sha256=bytes.fromhex(digest))

    # As `keepctl trust --image` looks at it.
    expected_image = ExpectedImage(folder=image, memory=MEMORY << 20, allow_software_tpm=True)
    tables = expected_image.tables(EvidenceKind.TPM, digest)
    policy = PolicyOfAnImage(name="image", image=tables, allow_software_tpm=True)
    observed = observe(forwarder.endpoint, credentials, policy, expected)
    assert observed.verdict is not None
    assert observed.verdict.accepted, observed.verdict

    seen: list[PeerVerdict] = []
    image_alone = TpmPolicy(pcrs={"sha256": predicted(image, digest)})
    peer = AttestedPeer(Policy(name="image", tpm=(image_alone,)), expected, observe=seen.append)
    with (
        KeepClient(forwarder.endpoint, peer, credentials=credentials) as client,
        pytest.raises(EvidenceRefusedError, match=r"tpm\.trust"),
    ):
        client.status()
    # The one thing that no file tells is the key of this software TPM.
    facts = seen[0].verdict.facts
    pinned = msgspec.structs.replace(
        image_alone, ak_names=(facts["ak_name"],), allow_unknown_ek=True, require_event_log=True
    )
    peer = AttestedPeer(Policy(name="image and TPM", tpm=(pinned,)), expected)
    with KeepClient(forwarder.endpoint, peer, credentials=credentials) as client:
        client.load_workload(example("hello"))
        run = client.start_run(RunRequest(), wait=50)
        assert b"".join(client.output(run.id, "stdout", follow=True)) == b"Hello, world!\n"
    # The host has carried it all, and read nothing.
    assert b"Hello, world!" not in forwarder.carried
    assert example("hello").read_bytes()[:1024] not in forwarder.carried

    changed = msgspec.structs.replace(pinned, pcrs={"sha256": predicted_of_changed_image(image, tmp_path, digest)})
    peer = AttestedPeer(Policy(name="another image", tpm=(changed,)), expected)
    with (
        KeepClient(forwarder.endpoint, peer, credentials=credentials) as client,
        pytest.raises(EvidenceRefusedError, match=r"tpm\.pcr9"),
    ):
        client.status()

    machine.tell(Stop())
    assert await_last_event(machine) == Stopped()
    assert machine.wait() == 0


def predicted_of_changed_image(image: Path, folder: Path, digest: str) -> dict[str, tuple[str, ...]]:
    """PCRs of an image that differs by one byte of its initramfs."""
    copy = folder / "changed"
    copy.mkdir()
    manifest = load_manifest(image)
    for name in (manifest.kernel.name, manifest.initramfs.name):
        (copy / name).write_bytes((image / name).read_bytes())
    content = bytearray((copy / manifest.initramfs.name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / manifest.initramfs.name).write_bytes(content)
    write_manifest(copy, manifest, bytes(content))
    return predicted(copy, digest)


def write_manifest(folder: Path, manifest: Manifest, initramfs: bytes) -> None:
    from keep_image.manifest import INITRAMFS, MANIFEST, described, encode_manifest

    changed = msgspec.structs.replace(manifest, initramfs=described(INITRAMFS, initramfs))
    (folder / MANIFEST).write_bytes(encode_manifest(changed))


def test_a_machine_without_the_hardware_that_its_spec_names_says_so_and_powers_off(
    image: Path, owner: Credential
) -> None:
    spec = new_spec(principals=[owner.pinned()], evidence=EvidenceKind.TPM)
    with running_machine(image, memory=MEMORY) as machine:
        machine.tell(configuration(spec))
        event = await_last_event(machine)
        assert isinstance(event, Failed)
        assert "/dev/tpmrm0" in event.reason
        assert machine.wait() == 0
