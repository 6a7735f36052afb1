"""Secrets and sealing on real deployments: what the host can see, and what survives what."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app_loader.attesters.code_measurement import measure_code
from keep_attestation.policy import parse_policy
from keep_client import Home, KeepClient, ManagerClient, ProblemError, connect_keep, new_spec, principal_of
from keep_client.following import follow_run
from keep_protocol.errors import ErrorCode
from keep_protocol.evidence import EvidenceKind
from keep_protocol.keep_api import RunRequest
from keep_protocol.manager_api import Keep
from keep_protocol.memory_folder import SHARED_MEMORY, UNIT_MEMORY
from keep_protocol.secret_api import SecretUse
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import KeepRole, RunState
from tests.system.clients import code_of, endpoint_of, operator_of
from tests.system.deployment import Deployment, eventually, example, guest

RAW = {"content-type": "application/octet-stream"}


@contextmanager
def connected(deployment: Deployment, keep: str) -> Iterator[KeepClient]:
    with ManagerClient.from_home(deployment.home) as manager, connect_keep(manager, keep) as client:
        yield client


def folders_of(pid: int) -> list[Path]:
    """The folders of a keep's unit, as the host can look into them."""
    environment = dict(
        entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") if entry
    )
    names = (environment[name] for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"))
    return [folder for name in names for folder in (Path(name), Path(f"/proc/{pid}/root{name}")) if folder.exists()]


def processes_below(pid: int) -> list[int]:
    """A process with all its descendants."""
    below = [pid]
    for parent in below:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            below.extend(int(child) for child in task.read_text().split())
    return below


def holding(folder: Path, needle: bytes) -> list[str]:
    """The files in a folder that have these bytes in them, or in their names."""
    found = []
    for path in folder.rglob("*"):
        if needle in os.fsencode(path.name):
            found.append(str(path))
        if path.is_file() and not path.is_symlink() and needle in path.read_bytes():
            found.append(str(path))
    return found


def key_of(envelope: Path) -> str:
    """The id of the key that an envelope names."""
    header: dict[str, str] = json.loads(envelope.read_bytes()[8:].partition(b"}")[0] + b"}")
    return header["key_id"]


def seen_by_host(deployment: Deployment, keep: str, pid: int, needle: bytes, *, policy: bool = False) -> list[str]:
    """Everywhere that the host finds `needle` without reading the memory of processes or of files in memory.

    With `policy` the keep itself is not asked: that needs a policy for its evidence.
    """
    found = holding(deployment.home, needle)
    for folder in folders_of(pid):
        found += holding(folder, needle)
    for process in processes_below(pid):
        for name in ("cmdline", "environ", "comm", "status"):
            if needle in Path(f"/proc/{process}/{name}").read_bytes():
                found.append(f"/proc/{process}/{name}")
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            if needle in os.fsencode(os.readlink(descriptor)):
                found.append(str(descriptor))
    asked = (("show", keep), ("events",), ("logs", keep), ("ls",))
    for arguments in asked if policy else (*asked, ("runs", keep)):
        shown = deployment.keepctl(*arguments, *(() if arguments[0] in {"events", "logs"} else ("--json",)))
        if needle.decode() in shown.stdout + shown.stderr:
            found.append(f"keepctl {' '.join(arguments)}")
    with sqlite3.connect(f"file:{deployment.home}/state/manager.db?mode=ro", uri=True) as database:
        if any(needle.decode() in line for line in database.iterdump()):
            found.append("manager.db")
    database.close()
    return found


def test_the_host_finds_a_secret_nowhere_while_a_run_has_it_and_afterwards(fresh_deployment: Deployment) -> None:
    deployment = fresh_deployment
    canary = f"canary-{secrets.token_hex(12)}"
    keep = deployment.create("--name", "safe", "--at-rest", "plain")
    pid = int(keep["pid"])
    deployment.keepctl("put", "safe", "-", "/input/open", input="control-5e1f")
    assert seen_by_host(deployment, "safe", pid, b"control-5e1f"), "the search finds nothing that is there"
    deployment.keepctl("secret", "put", "safe", "password", "--ttl", "1h", input=canary)
    deployment.keepctl("load", "safe", str(example("endless")))
    with connected(deployment, "safe") as client:
        uses = (SecretUse("password", env="PASSWORD"), SecretUse("password", file="/secrets/password"))
        run = client.start_run(RunRequest(args=("sleep",), secrets=uses))
        eventually(lambda: client.get_run(run.id).state is RunState.RUNNING and len(processes_below(pid)) > 2)
        assert seen_by_host(deployment, "safe", pid, canary.encode()) == []
        for process in processes_below(pid):
            limits = Path(f"/proc/{process}/limits").read_text()
            (core,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
            assert core[4:6] == ["0", "0"]
        client.stop_run(run.id)
        assert seen_by_host(deployment, "safe", pid, canary.encode()) == []
        with pytest.raises(ProblemError) as refused:
            client.put_secret("-bad", canary.encode())
    assert canary not in str(refused.value)
    assert seen_by_host(deployment, "safe", pid, canary.encode()) == []
    for memory in (UNIT_MEMORY, SHARED_MEMORY):
        assert holding(Path(f"/proc/{pid}/root{memory}"), canary.encode()) == []


def test_a_run_gets_secrets_by_variable_and_by_file_from_the_command_line(deployment: Deployment) -> None:
    keep = deployment.create()["id"]
    value = f"value-{secrets.token_hex(8)}"
    deployment.keepctl("secret", "put", keep, "db-password", input=value)
    assert [entry["name"] for entry in deployment.json("secret", "ls", keep)] == ["db-password"]
    shown = deployment.keepctl("run", "--keep", keep, str(guest("args_env")), "--secret", "db-password=DB")
    assert f"env DB={value}\n" in shown.stdout
    shown = deployment.keepctl("run", "--keep", keep, str(guest("args_env")), "--secret", "db-password")
    assert f"env DB_PASSWORD={value}\n" in shown.stdout
    reads = (str(guest("read_file")), "--secret", "db-password:/etc/keys/db", "--", "/etc/keys/db")
    assert deployment.keepctl("run", "--keep", keep, *reads).stdout == value
    deployment.keepctl("secret", "rm", keep, "db-password")
    refused = deployment.keepctl("run", "--keep", keep, *reads, check=False)
    assert refused.returncode != 0
    assert "there is no secret 'db-password'" in refused.stderr
    deployment.keepctl("rm", keep)


def test_secrets_are_gone_after_a_restart_and_sealed_data_is_not(fresh_deployment: Deployment, tmp_path: Path) -> None:
    deployment = fresh_deployment
    (plain := tmp_path / "plain").write_bytes(bytes(range(256)))
    sealed, opened = tmp_path / "sealed", tmp_path / "opened"
    keep, other = deployment.create()["id"], deployment.create()["id"]
    deployment.keepctl("secret", "put", keep, "name", input="value")
    told = deployment.keepctl("seal", keep, str(plain), str(sealed), "--purpose", "state", "--counter", "7")
    assert "host" in told.stderr
    assert plain.read_bytes() not in sealed.read_bytes()

    deployment.keepctl("restart", keep)
    assert deployment.json("secret", "ls", keep) == []
    shown = deployment.json("unseal", keep, str(sealed), str(opened), "--purpose", "state", "--counter", "7")
    assert opened.read_bytes() == plain.read_bytes()
    assert (shown["rollback_protected"], shown["header"]["key"]["kind"]) == (True, "host")

    for arguments, words in (
        (("--counter", "8"), "8 is the lowest"),
        ((), "nothing proves"),
        (("--allow-rollback", "--purpose", "other"), "other"),
    ):
        refused = deployment.keepctl("unseal", keep, str(sealed), str(opened), *arguments, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
    foreign = deployment.keepctl("unseal", other, str(sealed), str(opened), "--allow-rollback", check=False)
    assert "is not one of this keep's" in foreign.stderr

    deployment.run("keep-manager", "rotate-sealing-key", "--home", str(deployment.home), keep)
    deployment.keepctl("stop", keep)
    deployment.keepctl("start", keep)
    deployment.keepctl("unseal", keep, str(sealed), str(opened), "--allow-rollback")
    deployment.keepctl("seal", keep, str(plain), str(tmp_path / "again"), "--purpose", "state")
    keys = {
        json.loads(path.read_bytes()[8:].partition(b"}")[0] + b"}")["key_id"] for path in (sealed, tmp_path / "again")
    }
    assert len(keys) == 2

    deployment.keepctl("rm", keep)
    assert [path.name for path in (deployment.home / "state" / "keys").iterdir()] == [other]


class TestEvidence:
    """Keeps that prove themselves take secrets only where they have."""

    def spec(self, deployment: Deployment, manager: ManagerClient) -> KeepSpec:
        certificate = manager.credentials.certificate.read_text()
        ca = Home(deployment.home).client_ca.read_text()
        owner = principal_of(certificate, [KeepRole.OWNER], client_ca=ca)
        return new_spec(principals=(owner,), evidence=EvidenceKind.SIMULATED)

    def test_no_secret_is_taken_and_nothing_sealed_on_a_connection_without_proof(self, deployment: Deployment) -> None:
        with ManagerClient.from_home(deployment.home) as manager:
            keep = manager.create_keep(self.spec(deployment, manager))
            try:
                server = endpoint_of({"endpoint": keep.endpoint, "certificate": keep.certificate})
                with server.http(operator_of(deployment.home)) as http:
                    for answer in self.attempts(http):
                        assert code_of(answer) == (403, "attestation-required")
            finally:
                manager.remove_keep(keep.id)

    def attempts(self, http: httpx.Client) -> list[httpx.Response]:
        return [
            http.put("/v1/secrets/name", content=b"value", headers=RAW),
            http.get("/v1/secrets"),
            http.delete("/v1/secrets/name"),
            http.post("/v1/seal", json={"purpose": "p", "data": ""}),
            http.post("/v1/unseal", json={"sealed": ""}),
        ]

    def test_a_client_that_has_verified_the_keep_gives_it_secrets(self, deployment: Deployment) -> None:
        policy = parse_policy(f'name = "test"\n[simulated]\nmeasurements = ["{measure_code().hex()}"]\n')
        with ManagerClient.from_home(deployment.home) as manager:
            spec = self.spec(deployment, manager)
            keep = manager.create_keep(spec)
            try:
                digest = spec_digest(canonical(spec))
                with connect_keep(manager, keep, policy=policy, spec_digest=digest) as client:
                    self.use(client, keep)
            finally:
                manager.remove_keep(keep.id)

    def use(self, client: KeepClient, keep: Keep) -> None:
        client.put_secret("name", b"proven")
        client.load_workload(guest("args_env"))
        run = client.start_run(RunRequest(secrets=(SecretUse("name", env="NAME"),)))
        output = bytearray()
        follow_run(client, run.id, stdout=output.extend, stderr=output.extend)
        assert b"env NAME=proven\n" in output
        sealed = client.seal(b"data", purpose="p", counter=1)
        assert client.unseal(sealed.envelope, expected_counter=1).data == b"data"
        with pytest.raises(ProblemError) as refused:
            client.unseal(sealed.envelope)
        assert refused.value.code == ErrorCode.ROLLBACK_REFUSED
