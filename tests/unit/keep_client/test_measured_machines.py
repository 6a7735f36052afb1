"""A host between a client and a measured machine: other machines, TPMs and logs, or itself in the guest's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from app_loader.identity import Identity
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_attestation.tpm.policy import TpmPolicy
from keep_client import Credentials, EvidenceRefusedError, KeepClient, new_spec
from keep_client.attested_peer import AttestedPeer
from keep_image.measurement.reference import MeasuredBackend, Shape, reference_values
from keep_protocol.evidence import EvidenceKind
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import Backend
from tests.unit.app_loader.attesting import DOMAIN, KEEP_ID
from tests.unit.app_loader.pki import Credential, self_signed
from tests.unit.keep_client.attested_keeps import CHALLENGE_SIZE, Challenge, Proof, ScriptedKeep, ok
from tests.unit.keep_client.measured_machines import (
    MEMORY,
    Measurement,
    boot_of,
    endpoint_leading_to,
    log_of,
    measured_machine,
)
from tests.unit.keep_image.test_images import write_image

Start = Callable[..., Proof]


@pytest.fixture
def owner() -> Credential:
    return self_signed()


@pytest.fixture
def spec(owner: Credential) -> KeepSpec:
    return new_spec(principals=[owner.pinned()], backend=Backend.QEMU_VTPM, evidence=EvidenceKind.TPM)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image")


@pytest.fixture
def impostor(tmp_path: Path) -> list[Measurement]:
    """The boot of an image with one byte changed."""
    return boot_of(write_image(tmp_path / "impostor", initramfs=b"initramfS"))


@pytest.fixture
def start(stack: ExitStack, spec: KeepSpec) -> Start:
    """Starts one more machine."""

    def started(boot: Sequence[Measurement], *, log: bytes | None = None, spec: KeepSpec = spec) -> Proof:
        return stack.enter_context(measured_machine(spec, boot, log=log))

    return started


class Client:
    """A keep's owner, who knows the image and the spec and, once the machine was met, its TPM."""

    def __init__(self, image: Path, spec: KeepSpec, credentials: Credentials) -> None:
        digest = spec_digest(canonical(spec))
        shape = Shape(backend=MeasuredBackend.VTPM, memory=MEMORY, spec_digest=digest)
        pcrs = reference_values(image, shape)["tpm"]["pcrs"]["sha256"]
        self._policy = TpmPolicy(
            pcrs={"sha256": {number: tuple(values) for number, values in pcrs.items()}},
            allow_unknown_ek=True,
            require_event_log=True,
        )
        self._expected = ExpectedKeep(keep=KEEP_ID, spec_sha256=bytes.fromhex(digest))
        self._credentials = credentials

    def meet(self, machine: Proof) -> None:
        """Pin the TPM of this machine, which has to be right in all else."""
        with serving(machine) as keep:
            verdict = self._look(keep.endpoint)
        assert failures(verdict) == ["tpm.trust"]
        self._policy = msgspec.structs.replace(self._policy, ak_names=(verdict.verdict.facts["ak_name"],))

    def refusals(self, keep: ScriptedKeep) -> list[str]:
        """The checks that fail where the host has the endpoint lead to `keep`."""
        with endpoint_leading_to(keep.endpoint) as endpoint:
            return failures(self._look(endpoint))

    def _look(self, endpoint: str) -> PeerVerdict:
        """The verdict that decided."""
        verdicts: list[PeerVerdict] = []
        peer = AttestedPeer(Policy(name="image", tpm=(self._policy,)), self._expected, observe=verdicts.append)
        with suppress(EvidenceRefusedError), KeepClient(endpoint, peer, credentials=self._credentials) as client:
            client.status()
        return verdicts[-1]


def failures(verdict: PeerVerdict) -> list[str]:
    return [check.name for check in verdict.verdict.failures]


@pytest.fixture
def client(image: Path, spec: KeepSpec, credentials: Credentials) -> Client:
    return Client(image, spec, credentials)


def serving(machine: Proof, *, fresh_from: Proof | None = None) -> ScriptedKeep:
    """The machine at an address of its own; `fresh_from` is another one that is asked for the fresh evidence."""

    def answer(challenge: Challenge) -> bytes:
        return ok((fresh_from or machine).collection(challenge))

    return ScriptedKeep(machine.identity, answer)


def nothing_was_said(keep: ScriptedKeep) -> bool:
    """Whether the client ended the handshake before it sent a byte of its own."""
    (seen,) = keep.finished()
    return (seen.application, seen.certificate) == (b"", None)


def test_the_machine_itself_is_spoken_to_through_its_endpoint(client: Client, image: Path, start: Start) -> None:
    machine = start(boot_of(image))
    client.meet(machine)
    with serving(machine) as keep:
        assert client.refusals(keep) == []
        (seen,) = keep.finished()
    assert len(seen.application) > CHALLENGE_SIZE


def test_another_machine_of_the_same_image_and_spec_is_refused_by_its_tpm(
    client: Client, image: Path, start: Start
) -> None:
    client.meet(start(boot_of(image)))
    with serving(start(boot_of(image))) as keep:
        assert client.refusals(keep) == ["tpm.trust"]
        assert nothing_was_said(keep)


def test_another_keeps_machine_is_refused_by_its_spec_whatever_its_tpm(
    client: Client, image: Path, start: Start, owner: Credential
) -> None:
    other = new_spec(principals=[owner.pinned()], backend=Backend.QEMU_VTPM, evidence=EvidenceKind.TPM)
    with serving(start(boot_of(image), spec=other)) as keep:
        assert {"ratls.spec", "tpm.pcr11"} <= set(client.refusals(keep))
        assert nothing_was_said(keep)


def test_a_certificate_with_the_evidence_of_another_running_machine_is_refused_for_its_key(
    client: Client, image: Path, impostor: list[Measurement], start: Start
) -> None:
    honest, other = start(boot_of(image)), start(impostor)
    client.meet(honest)
    captured = honest.maker.collection(honest.identity.spki)
    other.identity = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",), evidence=lambda _: captured)
    with serving(other) as keep:
        assert client.refusals(keep) == ["ratls.key"]
        assert nothing_was_said(keep)


def test_fresh_evidence_of_another_running_machine_is_refused_for_its_key(
    client: Client, image: Path, start: Start
) -> None:
    first, second = start(boot_of(image)), start(boot_of(image))
    client.meet(first)
    with serving(first, fresh_from=second) as keep:
        assert "ratls.key" in client.refusals(keep)
        (seen,) = keep.finished()
    assert len(seen.application) == CHALLENGE_SIZE


def test_a_program_of_the_host_in_the_guests_place_is_refused_for_want_of_a_measured_boot(
    client: Client, image: Path, start: Start
) -> None:
    client.meet(start(boot_of(image)))
    # It has the keep's spec and id, a TPM like the machine's, and the log of an honest boot.
    with serving(start([], log=log_of(boot_of(image)))) as keep:
        assert client.refusals(keep) == ["tpm.log", "tpm.pcr4", "tpm.pcr9", "tpm.trust", "tpm.log-demanded"]
        assert nothing_was_said(keep)


def test_the_log_of_an_honest_boot_beside_another_boots_registers_is_refused(
    client: Client, image: Path, impostor: list[Measurement], start: Start
) -> None:
    machine = start(impostor, log=log_of(boot_of(image)))
    with serving(machine) as keep:
        assert {"tpm.log", "tpm.pcr9"} <= set(client.refusals(keep))
        assert nothing_was_said(keep)


def test_an_honest_boot_replayed_into_registers_that_have_measured_another_is_refused(
    client: Client, image: Path, impostor: list[Measurement], start: Start
) -> None:
    honest = boot_of(image)
    for log in (log_of(honest), log_of([*impostor, *honest])):
        with serving(start([*impostor, *honest], log=log)) as keep:
            assert {"tpm.pcr4", "tpm.pcr9"} <= set(client.refusals(keep))
            assert nothing_was_said(keep)


def test_a_machine_whose_tpm_has_been_swapped_for_anothers_is_refused_by_it(
    client: Client, image: Path, spec: KeepSpec, tmp_path: Path
) -> None:
    own, others = tmp_path / "own", tmp_path / "others"
    for state in (own, others):
        state.mkdir()
    boot = boot_of(image)
    with measured_machine(spec, boot, state=own) as machine:
        client.meet(machine)
    with measured_machine(spec, boot, state=others) as machine, serving(machine) as keep:
        assert client.refusals(keep) == ["tpm.trust"]
    # What is at fault is the state alone: with its own the machine is what it was.
    with measured_machine(spec, boot, state=own) as machine, serving(machine) as keep:
        assert client.refusals(keep) == []
