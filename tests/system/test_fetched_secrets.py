"""Secrets that keeps of real deployments fetch by their evidence, through their network broker, with no owner there."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keep_client import Home, KeepClient, ManagerClient, ProblemError, connect_keep, new_spec, principal_of
from keep_client.following import follow_run
from keep_protocol.errors import ErrorCode
from keep_protocol.evidence import EvidenceKind
from keep_protocol.keep_api import RunRequest
from keep_protocol.manager_api import Keep
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.secret_api import SecretUse, SourceState
from keep_protocol.secret_sources import KbsSource
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import KeepRole
from tests.system.deployment import Deployment, eventually, guest
from tests.system.test_secrets import seen_by_host
from tests.unit.app_loader.key_release.services import ServiceAuthority
from tests.unit.app_loader.key_release.verifying_broker import VerifyingBroker, this_code
from tests.unit.keep_attestation.key_release.http_server import serve

HOST = "localhost"
"""The network broker resolves names as the host does."""
READ = RunRequest(args=("/secrets/key",), secrets=(SecretUse("key", file="/secrets/key"),))


@dataclass
class Service:
    """A key broker that verifies, at a URL of this machine, and what a spec says to fetch from it."""

    broker: VerifyingBroker
    url: str
    authority: ServiceAuthority
    canary: str

    def served(self) -> int:
        """How often it has given the secret out."""
        return sum(request.path.startswith("/kbs/v0/resource/") for request in self.broker.requests)

    def spec(self, deployment: Deployment, manager: ManagerClient) -> KeepSpec:
        certificate = manager.credentials.certificate.read_text()
        owner = principal_of(certificate, [KeepRole.OWNER], client_ca=Home(deployment.home).client_ca.read_text())
        rule = EgressRule(host=HOST, ports=(urlsplit(self.url).port or 0,), methods=("GET", "POST"), private=True)
        return new_spec(
            principals=(owner,),
            evidence=EvidenceKind.SIMULATED,
            network=NetworkPolicy(listen=(), egress=Egress(allow=(rule,), deny=())),
            secrets=[KbsSource("key", self.url, "default/key/1", roots=self.authority.roots)],
        )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    authority, canary = ServiceAuthority(), f"canary-{secrets.token_hex(12)}"
    broker = VerifyingBroker(this_code(), None)
    broker.resources["default/key/1"] = canary.encode()
    with serve(broker, authority.tls(tmp_path, HOST)) as url:
        yield Service(broker, url.replace("127.0.0.1", HOST), authority, canary)


def connect(manager: ManagerClient, keep: Keep, spec: KeepSpec) -> KeepClient:
    return connect_keep(manager, keep, policy=this_code(), spec_digest=spec_digest(canonical(spec)))


def output_of_run(client: KeepClient) -> str:
    run = client.start_run(READ)
    output = bytearray()
    follow_run(client, run.id, stdout=output.extend, stderr=output.extend)
    return output.decode()


def test_a_keep_has_its_secret_without_its_owner_and_again_after_it_was_killed(
    fresh_deployment: Deployment, service: Service
) -> None:
    deployment = fresh_deployment
    with ManagerClient.from_home(deployment.home) as manager:
        spec = service.spec(deployment, manager)
        service.broker.spec_sha256 = bytes.fromhex(spec_digest(canonical(spec)))
        keep = manager.create_keep(spec, name="alone")
        eventually(lambda: service.served() == 1)
        pid = manager.get_keep(keep.id).keep.pid
        assert pid is not None
        assert seen_by_host(deployment, "alone", pid, service.canary.encode(), policy=True) == []
        with connect(manager, keep, spec) as client:
            client.load_workload(guest("read_file"))
            assert output_of_run(client) == service.canary

        service.broker.resources["default/key/1"] = b"of the next life"
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: service.served() == 2)
        with connect(manager, keep, spec) as client:
            assert output_of_run(client) == "of the next life"
            (source,) = client.list_secrets().sources
        assert (source.name, source.state, source.failure) == ("key", SourceState.FETCHED, None)
        assert service.broker.refused == []


def test_a_keep_of_another_spec_gets_nothing_from_the_broker(deployment: Deployment, service: Service) -> None:
    service.broker.spec_sha256 = bytes(32)
    with ManagerClient.from_home(deployment.home) as manager:
        spec = service.spec(deployment, manager)
        keep = manager.create_keep(spec)
        try:
            with connect(manager, keep, spec) as client:
                client.load_workload(guest("read_file"))
                with pytest.raises(ProblemError) as refused:
                    client.start_run(READ)
                assert client.list_secrets().secrets == ()
            assert refused.value.code == ErrorCode.SECRET_PENDING
            assert "does not accept the keep's evidence" in str(refused.value)
            assert set(service.broker.refused) == {"another spec"}
        finally:
            manager.remove_keep(keep.id)


def test_a_keep_made_by_the_command_line_shows_where_its_secrets_are_from(
    deployment: Deployment, service: Service, tmp_path: Path
) -> None:
    (roots := tmp_path / "roots.pem").write_bytes(service.authority.pem)
    (policy := tmp_path / "policy.toml").write_text(
        f'name = "test"\n[simulated]\nmeasurements = ["{this_code().simulated[0].measurements[0]}"]\n'
    )
    options = ("--evidence", "simulated", "--policy", str(policy), "--secret-roots", str(roots))
    source = ("--secret-from-kbs", f"key={service.url}#default/key/1", "--kbs-without-claims")
    refused = deployment.keepctl("create", *options, *source, check=False)
    assert refused.returncode == 1
    assert "`network.egress` does not allow" in refused.stderr
    keep = deployment.create(*options, *source, "--egress-allow", f"{service.url}+private")["id"]
    eventually(lambda: service.served() == 1)
    entry = eventually(lambda: [entry for entry in deployment.json("secret", "ls", keep) if entry["stored_at"]])[0]
    assert (entry["name"], entry["size"]) == ("key", len(service.canary))
    assert entry["source"]["source"] == f"{service.url}#default/key/1"
    assert service.url in deployment.keepctl("secret", "ls", keep).stdout
    deployment.keepctl("rm", keep)
