"""Keeps of a real deployment prove themselves to clients that trust neither its host nor its operator."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from app_loader.attesters.code_measurement import measure_code
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_client import (
    ConnectionFailedError,
    Credentials,
    EvidenceRefusedError,
    Home,
    InvalidArgumentError,
    KeepClient,
    ManagerClient,
    ProblemError,
    connect_keep,
    new_spec,
    principal_of,
)
from keep_client.attested_peer import AttestedPeer
from keep_protocol.evidence import EvidenceKind
from keep_protocol.keep_api import RunRequest
from keep_protocol.manager_api import AttesterInfo, BackendInfo, Keep
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import Backend, KeepRole, KeepState
from tests.system.clients import Identity, issue, operator_of
from tests.system.deployment import Deployment, eventually, example
from tests.system.relay import Relay, disguised_key

POLICY = parse_policy(f'name = "development"\n[simulated]\nmeasurements = ["{measure_code().hex()}"]\n')
PRODUCTION = parse_policy('name = "production"\n[nitro]\n[snp]\n[tdx]\n')
OTHER_CODE = parse_policy(f'name = "other code"\n[simulated]\nmeasurements = ["{"11" * 32}"]\n')


@pytest.fixture
def manager(deployment: Deployment) -> Iterator[ManagerClient]:
    with ManagerClient.from_home(deployment.home) as client:
        yield client


def spec_for(home: Path, *others: tuple[Identity, KeepRole], evidence: EvidenceKind | None) -> KeepSpec:
    """A spec of the operator's, with others in further roles."""
    ca = Home(home).client_ca.read_text()
    people = [(operator_of(home), KeepRole.OWNER), *others]
    return new_spec(
        principals=[principal_of(who.certificate.read_text(), [role], client_ca=ca) for who, role in people],
        evidence=evidence,
    )


def attested_spec(home: Path, *others: tuple[Identity, KeepRole]) -> KeepSpec:
    return spec_for(home, *others, evidence=EvidenceKind.SIMULATED)


def digest_of(spec: KeepSpec) -> str:
    return spec_digest(canonical(spec))


@pytest.fixture
def spec(deployment: Deployment) -> KeepSpec:
    return attested_spec(deployment.home)


@pytest.fixture
def keep(manager: ManagerClient, spec: KeepSpec) -> Iterator[Keep]:
    created = manager.create_keep(spec)
    yield created
    manager.remove_keep(created.id)


def test_a_workload_is_loaded_and_run_by_whoever_has_verified_the_keep(
    manager: ManagerClient, keep: Keep, spec: KeepSpec
) -> None:
    with connect_keep(manager, keep, policy=POLICY, spec_digest=digest_of(spec)) as client:
        assert client.verify().id == keep.id
        client.load_workload(example("hello"))
        run = client.start_run(RunRequest(), wait=20)
        assert b"".join(client.output(run.id, "stdout", follow=True)) == b"Hello, world!\n"


def test_a_second_party_verifies_what_has_been_loaded(
    deployment: Deployment, manager: ManagerClient, tmp_path: Path
) -> None:
    bob = issue(deployment, tmp_path, "bob")
    spec = attested_spec(deployment.home, (bob, KeepRole.AUDITOR))
    keep = manager.create_keep(spec)
    hello = hashlib.sha256(example("hello").read_bytes()).digest()

    def as_bob(workload: bytes) -> str | None:
        # Bob has been told address, spec and workload by the owner, and asks no manager.
        expected = ExpectedKeep(
            keep=keep.id, spec_sha256=bytes.fromhex(digest_of(spec)), workload_sha256=workload, backend="process"
        )
        peer = AttestedPeer(POLICY, expected)
        with KeepClient(keep.endpoint, peer, credentials=Credentials(bob.certificate, bob.key)) as client:
            return client.verify().workload.digest

    try:
        with pytest.raises(EvidenceRefusedError, match=r"ratls\.workload: the workload is absent"):
            as_bob(hello)
        with connect_keep(manager, keep, policy=POLICY, spec_digest=digest_of(spec)) as owner:
            owner.load_workload(example("hello"))
            assert as_bob(hello) == hello.hex()
            owner.load_workload(example("echo"))
        with pytest.raises(EvidenceRefusedError, match=r"ratls\.workload: the workload is"):
            as_bob(hello)
    finally:
        manager.remove_keep(keep.id)


def test_a_killed_keep_comes_back_with_another_key_and_is_verified_anew(fresh_deployment: Deployment) -> None:
    spec = attested_spec(fresh_deployment.home)
    verdicts: list[PeerVerdict] = []
    with ManagerClient.from_home(fresh_deployment.home) as manager:
        keep = manager.create_keep(spec)
        expected = ExpectedKeep(keep=keep.id, spec_sha256=bytes.fromhex(digest_of(spec)))
        peer = AttestedPeer(POLICY, expected, observe=verdicts.append)
        with KeepClient(keep.endpoint, peer, credentials=manager.credentials) as client:
            before = client.verify()
            assert keep.pid is not None
            os.kill(keep.pid, signal.SIGKILL)
            eventually(lambda: _is_back(manager, keep))
            after = client.verify()
        assert (after.id, after.spec_digest) == (before.id, before.spec_digest)
        assert after.invocation != before.invocation
    assert all(verdict.accepted for verdict in verdicts)
    keys = list(dict.fromkeys(verdict.spki_sha256 for verdict in verdicts))
    assert len(keys) == 2
    assert len(verdicts) == 4, "both phases on both connections"


def test_a_keep_whose_spec_the_host_has_exchanged_behind_its_owners_back_is_refused(
    fresh_deployment: Deployment, tmp_path: Path
) -> None:
    mallory = issue(fresh_deployment, tmp_path, "mallory")
    spec = attested_spec(fresh_deployment.home)
    exchanged = msgspec.structs.replace(
        attested_spec(fresh_deployment.home, (mallory, KeepRole.OWNER)), nonce=spec.nonce, limits=spec.limits
    )
    with ManagerClient.from_home(fresh_deployment.home) as manager:
        keep = manager.create_keep(spec)
        with connect_keep(manager, keep, policy=POLICY, spec_digest=digest_of(spec)) as client:
            client.verify()
    fresh_deployment.kill_manager()
    with closing(sqlite3.connect(fresh_deployment.home / "state" / "manager.db")) as database, database:
        database.execute("UPDATE keeps SET spec = ? WHERE id = ?", (canonical(exchanged), keep.id))
    fresh_deployment.serve()
    with ManagerClient.from_home(fresh_deployment.home) as manager:
        found = manager.restart_keep(keep.id)
        assert found.state is KeepState.READY
        # The keep works for whoever does not look; nobody else speaks to it.
        with connect_keep(manager, found, policy=POLICY, spec_digest=digest_of(exchanged)) as client:
            assert client.verify().spec_digest == digest_of(exchanged)
        with (
            connect_keep(manager, found, policy=POLICY, spec_digest=digest_of(spec)) as client,
            pytest.raises(EvidenceRefusedError, match=r"ratls\.spec: the spec is"),
        ):
            client.verify()


def _is_back(manager: ManagerClient, keep: Keep) -> bool:
    now = manager.get_keep(keep.id).keep
    return now.state is KeepState.READY and now.pid != keep.pid


class TestLies:
    """What a host may try with a client that knows its spec."""

    def refused(
        self, manager: ManagerClient, keep: Keep, spec: KeepSpec, policy: Policy = POLICY
    ) -> tuple[str, frozenset[str]]:
        """Why the client refuses, and the names of the checks that failed."""
        with (
            connect_keep(manager, keep, policy=policy, spec_digest=digest_of(spec)) as client,
            pytest.raises(EvidenceRefusedError) as caught,
        ):
            client.verify()
        assert caught.value.verdict is not None
        failed = frozenset(check.name for check in caught.value.verdict.verdict.failures)
        return str(caught.value), failed

    def test_a_manager_that_points_at_another_keep(
        self, deployment: Deployment, manager: ManagerClient, keep: Keep, spec: KeepSpec
    ) -> None:
        other = manager.create_keep(attested_spec(deployment.home))
        try:
            elsewhere = msgspec.structs.replace(keep, endpoint=other.endpoint)
            _, failed = self.refused(manager, elsewhere, spec)
            assert failed == {"ratls.keep", "ratls.spec"}
            renamed = msgspec.structs.replace(keep, id=other.id, endpoint=other.endpoint)
            _, failed = self.refused(manager, renamed, spec)
            assert failed == {"ratls.spec"}
        finally:
            manager.remove_keep(other.id)

    def test_a_manager_that_denies_the_evidence(self, manager: ManagerClient, keep: Keep, spec: KeepSpec) -> None:
        pinned = msgspec.structs.replace(keep, evidence=None, certificate=None)
        with connect_keep(manager, pinned, policy=POLICY, spec_digest=digest_of(spec)) as client:
            assert client.verify().id == keep.id

    def test_a_host_that_made_the_keep_from_another_spec(
        self, deployment: Deployment, manager: ManagerClient, keep: Keep
    ) -> None:
        asked_for = attested_spec(deployment.home)
        # The host answers to the asked-for spec with a keep that has another, and says otherwise.
        swapped = msgspec.structs.replace(keep, spec_digest=digest_of(asked_for))
        reason, failed = self.refused(manager, swapped, asked_for)
        assert failed == {"ratls.spec"}
        assert digest_of(asked_for) in reason

    def test_a_keep_without_evidence_where_some_was_asked_for(
        self, deployment: Deployment, manager: ManagerClient
    ) -> None:
        plain = manager.create_keep(spec_for(deployment.home, evidence=None))
        try:
            asked_for = attested_spec(deployment.home)
            with (
                connect_keep(manager, plain, policy=POLICY, spec_digest=digest_of(asked_for)) as client,
                pytest.raises(EvidenceRefusedError, match="certificate proves nothing"),
            ):
                client.verify()
        finally:
            manager.remove_keep(plain.id)

    def test_simulated_evidence_for_a_production_policy(
        self, manager: ManagerClient, keep: Keep, spec: KeepSpec
    ) -> None:
        reason, failed = self.refused(manager, keep, spec, PRODUCTION)
        assert failed == {"policy.kind"}
        assert "does not accept simulated evidence" in reason

    def test_other_code_than_the_policy_names(self, manager: ManagerClient, keep: Keep, spec: KeepSpec) -> None:
        _, failed = self.refused(manager, keep, spec, OTHER_CODE)
        assert failed == {"simulated.measurement"}

    def test_a_relay_with_the_keeps_certificate(
        self, deployment: Deployment, manager: ManagerClient, keep: Keep, spec: KeepSpec, tmp_path: Path
    ) -> None:
        assert keep.certificate is not None
        (tmp_path / "shown.pem").write_text(keep.certificate)
        (tmp_path / "shown.key").write_bytes(disguised_key(keep.certificate))
        operator = operator_of(deployment.home)
        own = tmp_path / "own.pem"
        own.write_bytes(operator.certificate.read_bytes() + operator.key.read_bytes())
        with Relay(keep.endpoint, certificate=tmp_path / "shown.pem", key=tmp_path / "shown.key", own=own) as relay:
            elsewhere = msgspec.structs.replace(keep, endpoint=relay.endpoint)
            with (
                connect_keep(manager, elsewhere, policy=POLICY, spec_digest=digest_of(spec)) as client,
                pytest.raises(ConnectionFailedError, match="bad signature"),
            ):
                client.verify()
            relay.finished()
        assert relay.from_clients == [b""]


def test_a_keep_with_evidence_is_not_connected_to_without_a_policy(manager: ManagerClient, keep: Keep) -> None:
    with pytest.raises(InvalidArgumentError, match="give the policy that it must satisfy"):
        connect_keep(manager, keep)


def test_evidence_that_no_keep_of_this_host_can_make_is_refused_at_its_creation(
    deployment: Deployment, manager: ManagerClient
) -> None:
    if next(info.available for info in manager.backends().attesters if info.kind is EvidenceKind.TPM):
        pytest.skip("this machine has a TPM")
    before = len(deployment.keeps())
    with pytest.raises(ProblemError, match="cannot make tpm evidence") as caught:
        manager.create_keep(spec_for(deployment.home, evidence=EvidenceKind.TPM))
    assert (caught.value.code, caught.value.field) == ("backend-unavailable", "spec.evidence")
    assert len(deployment.keeps()) == before


def test_the_manager_and_its_doctor_tell_what_can_be_proven_here_and_why_not(
    deployment: Deployment, manager: ManagerClient
) -> None:
    told = manager.backends()
    assert {info.kind for info in told.attesters} == {EvidenceKind.SIMULATED, EvidenceKind.TPM}
    doctor = deployment.run("keep-manager", "doctor", "--home", str(deployment.home), check=False).stdout
    for info in told.attesters:
        assert_tells(doctor, f"evidence {info.kind}", info)
    for backend in told.backends:
        if backend.name is not Backend.PROCESS:
            assert_tells(doctor, f"backend {backend.name}", backend)


def assert_tells(doctor: str, title: str, info: AttesterInfo | BackendInfo) -> None:
    """The doctor says of an option what the manager says, check by check in the lines below its title."""
    (part,) = (part for part in doctor.split("\n\n") if part.splitlines()[0].endswith(f"  {title}"))
    head, *lines = part.splitlines()
    assert head.startswith("ok " if info.available else "-- ")
    for check, line in zip(info.checks, lines, strict=True):
        # A guest's speed is measured anew by each who asks.
        measured = "million steps/s" in line
        assert line.split()[:2] == ["ok" if check.passed else "--", check.name]
        assert measured or (check.info if check.passed else check.message) in line
