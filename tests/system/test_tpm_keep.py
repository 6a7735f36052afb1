"""A keep on a machine with a TPM, here one in software, proves itself by it from end to end."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm, TpmError
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_attestation.tpm.policy import TpmPolicy
from keep_client import (
    EvidenceRefusedError,
    Home,
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
from keep_protocol.manager_api import Keep
from keep_protocol.sealing_api import CounterSource
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import KeepRole, KeepState
from keep_protocol.tpm_handles import counter_index
from tests.swtpm import running_swtpm
from tests.system.deployment import Deployment, eventually, example

APPLICATION_PCR = 15


@dataclass
class Machine:
    """A deployment on a host with a TPM, and one keep of it."""

    manager: ManagerClient
    tpm: Path
    spec: KeepSpec
    keep: Keep

    @property
    def spec_digest(self) -> str:
        return spec_digest(canonical(self.spec))

    def seen(self) -> PeerVerdict:
        """What the keep shows to somebody who accepts no TPM at all."""
        verdicts: list[PeerVerdict] = []
        expected = ExpectedKeep(keep=self.keep.id, spec_sha256=bytes.fromhex(self.spec_digest))
        nothing = Policy(name="nothing", tpm=(TpmPolicy(),))
        peer = AttestedPeer(nothing, expected, observe=verdicts.append)
        with (
            KeepClient(self.keep.endpoint, peer, credentials=self.manager.credentials) as client,
            pytest.raises(EvidenceRefusedError),
        ):
            client.status()
        return verdicts[0]

    def connect(self, policy: Policy) -> KeepClient:
        return connect_keep(self.manager, self.keep, policy=policy, spec_digest=self.spec_digest)


@pytest.fixture
def machine(supervisor: str) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="wk") as folder, running_swtpm() as tpm:
        deployment = Deployment(Path(folder) / "home", supervisor)
        deployment.init()
        settings = deployment.home / "config" / "wasmkeep.toml"
        settings.write_text(settings.read_text().replace('# tpm = "/dev/tpmrm0"', f'tpm = "{tpm}"'))
        deployment.serve()
        try:
            with ManagerClient.from_home(deployment.home) as manager:
                ca = Home(deployment.home).client_ca.read_text()
                owner = principal_of(manager.credentials.certificate.read_text(), [KeepRole.OWNER], client_ca=ca)
                spec = new_spec(principals=[owner], evidence=EvidenceKind.TPM)
                yield Machine(manager, tpm, spec, manager.create_keep(spec))
        finally:
            deployment.down()


def policy_of(seen: PeerVerdict, **changed: object) -> Policy:
    """A policy that accepts just this state of this TPM; a software TPM's maker is unknown to everybody."""
    facts = seen.verdict.facts
    values = {index: (value,) for index, value in facts["pcrs"]["sha256"].items()}
    tpm = TpmPolicy(pcrs={"sha256": values}, ak_names=(facts["ak_name"],), allow_unknown_ek=True)
    return Policy(name="this machine", tpm=(msgspec.structs.replace(tpm, **changed),))


def test_a_keep_attests_by_the_machines_tpm_and_so_does_its_next_life(machine: Machine) -> None:
    policy = policy_of(machine.seen())
    with machine.connect(policy) as client:
        assert client.verify().id == machine.keep.id
        client.load_workload(example("hello"))
        run = client.start_run(RunRequest(), wait=20)
        assert b"".join(client.output(run.id, "stdout", follow=True)) == b"Hello, world!\n"
    assert machine.keep.pid is not None
    os.kill(machine.keep.pid, signal.SIGKILL)

    def reborn() -> Keep | None:
        keep = machine.manager.get_keep(machine.keep.id).keep
        return keep if keep.state is KeepState.READY and keep.invocation != machine.keep.invocation else None

    machine.keep = eventually(reborn)
    with machine.connect(policy) as client:
        assert client.verify().workload.digest is not None


def test_only_the_latest_that_was_sealed_opens_also_after_a_restart_and_removing_the_keep_frees_its_counter(
    machine: Machine,
) -> None:
    policy = policy_of(machine.seen())
    with machine.connect(policy) as client:
        old, new = (client.seal(data, purpose="state") for data in (b"old", b"new"))
        assert (old.counted_by, new.counted_by) == (CounterSource.TPM, CounterSource.TPM)
    machine.keep = machine.manager.restart_keep(machine.keep.id)
    with machine.connect(policy) as client:
        opened = client.unseal(new.envelope)
        assert (opened.data, opened.rollback_protected) == (b"new", True)
        with pytest.raises(ProblemError) as refused:
            client.unseal(old.envelope)
        assert refused.value.code == "rollback-refused"
        assert not client.unseal(old.envelope, allow_rollback=True).rollback_protected
    machine.manager.remove_keep(machine.keep.id)
    with Tpm(SocketTransport(str(machine.tpm))) as tpm, pytest.raises(TpmError, match="TPM_RC_HANDLE"):
        tpm.read_nv(counter_index(machine.keep.id))


def test_another_state_of_the_machine_is_refused(machine: Machine) -> None:
    policy = policy_of(machine.seen())
    machine.manager.stop_keep(machine.keep.id)
    # swtpm serves one connection at a time; the keep's has gone with it.
    transport = SocketTransport(str(machine.tpm))
    try:
        Tpm(transport).extend_pcr(APPLICATION_PCR, {Algorithm.SHA256: b"\x42" * 32})
    finally:
        transport.close()
    machine.keep = machine.manager.start_keep(machine.keep.id)
    with machine.connect(policy) as client, pytest.raises(EvidenceRefusedError, match=r"tpm\.pcr"):
        client.status()


def test_another_attestation_key_is_refused(machine: Machine) -> None:
    stranger = policy_of(machine.seen(), ak_names=("000b" + "00" * 32,))
    with machine.connect(stranger) as client, pytest.raises(EvidenceRefusedError, match=r"tpm\.trust"):
        client.status()


def test_a_tpm_of_an_unknown_maker_is_refused_unless_the_policy_says_otherwise(machine: Machine) -> None:
    strict = policy_of(machine.seen(), allow_unknown_ek=False)
    with machine.connect(strict) as client, pytest.raises(EvidenceRefusedError, match=r"tpm\.trust"):
        client.status()
