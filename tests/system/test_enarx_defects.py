"""What the first host components of Enarx (enarx-keepmgr, enarx-keepldr) did wrong, each shown not to be so here."""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from keep_manager.endpoints import split_endpoint
from keep_protocol.handover import PROTOCOL_VERSION, Handover, Hello
from tests.system.clients import JSON, WASM, code_of, endpoint_of, manager_of, operator_of
from tests.system.deployment import ROOT, Deployment, eventually, example, guest

WAIT = {"prefer": "wait=30"}


@pytest.fixture(scope="module")
def manager(deployment: Deployment) -> Iterator[httpx.Client]:
    with manager_of(deployment).http(operator_of(deployment.home)) as client:
        yield client


@pytest.fixture(scope="module")
def keep(deployment: Deployment) -> Iterator[dict[str, Any]]:
    """A keep that these tests share, one after the other."""
    created = deployment.create()
    yield created
    deployment.keepctl("rm", created["id"])


@contextmanager
def inside(deployment: Deployment, keep: dict[str, Any]) -> Iterator[httpx.Client]:
    """The keep's own API, as it is now."""
    with endpoint_of(deployment.keep(keep["id"])).http(operator_of(deployment.home)) as client:
        yield client


def load(client: httpx.Client, wasm: Path) -> None:
    assert client.put("/v1/workload", content=wasm.read_bytes(), headers=WASM).status_code == 200


def told(deployment: Deployment) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((deployment.home / "manager.json").read_text())
    return content


def test_the_manager_answers_only_those_whose_certificates_it_checked_and_logs_no_secrets(
    deployment: Deployment, manager: httpx.Client
) -> None:
    # 1: no authentication at the manager; a token was printed to the log and never looked at.
    server = manager_of(deployment)
    assert server.refusal(server.context(None)) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert manager.get("/v1/health", headers={"authorization": "Bearer xyzzy"}).json()["roles"] == ["operator"]
    assert not re.search(r"xyzzy|BEGIN|PRIVATE", deployment.log())


def test_missing_fields_and_bad_numbers_are_answered_and_the_connection_lives_on(manager: httpx.Client) -> None:
    # 2: a missing key or a bad number in a request was a panic and a dropped connection.
    for body in (b"{}", b'{"spec": {"limits": {"memory": "much"}}}', b'{"spec": {"version": 1e999}}'):
        assert code_of(manager.post("/v1/keeps", content=body, headers=JSON))[0] == 422
        assert manager.get("/v1/health").status_code == 200


def test_starting_a_keep_that_does_not_exist_is_an_answer(manager: httpx.Client) -> None:
    # 3: starting a keep with an unknown id was a panic.
    assert code_of(manager.post("/v1/keeps/0123456789abcdef/start")) == (404, "keep-not-found")


def test_a_keep_answers_from_the_moment_on_in_which_it_is_created(
    deployment: Deployment, manager: httpx.Client, keep: dict[str, Any]
) -> None:
    # 4: right after creation the keep's socket was not bound yet, and using it was a panic.
    spec = manager.get(f"/v1/keeps/{keep['id']}").json()["spec"]
    created = manager.post("/v1/keeps", json={"spec": spec | {"nonce": os.urandom(16).hex()}}).json()
    with endpoint_of(created).http(operator_of(deployment.home)) as client:
        assert client.get("/v1/status").json()["id"] == created["id"]
    assert manager.delete(f"/v1/keeps/{created['id']}").status_code == 204


def test_a_unit_that_does_not_start_is_reported_and_listed_as_failed(
    deployment: Deployment, manager: httpx.Client, keep: dict[str, Any]
) -> None:
    # 5: when systemctl failed nobody was told, and the keep was listed like any other.
    path = f"/v1/keeps/{keep['id']}"
    manager.post(f"{path}/stop")
    lock = next(deployment.home.rglob(f"*{keep['id']}/lock"))
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as if another process had the keep's state
        assert code_of(manager.post(f"{path}/start")) == (502, "keep-start-failed")
        # Until then its unit is being tried again, and listed as starting.
        eventually(lambda: deployment.keep(keep["id"])["state"] == "failed")
        listed = deployment.keep(keep["id"])
    assert listed["pid"] is None
    assert listed["reason"]
    assert manager.post(f"{path}/start").json()["state"] == "ready"


def test_nothing_is_called_started_that_did_not_start(deployment: Deployment, keep: dict[str, Any]) -> None:
    # 6: the manager noted "started" whether or not the runtime had been spawned.
    with inside(deployment, keep) as client:
        content = guest("unknown_import").read_bytes()
        assert client.put("/v1/workload", content=content, headers=WASM).status_code == 422
        assert client.get("/v1/workload").json()["state"] == "empty"
        assert code_of(client.post("/v1/runs", json={})) == (409, "workload-empty")
        assert client.get("/v1/runs").json() == {"runs": []}


def test_starting_a_keep_twice_leaves_one_process(
    deployment: Deployment, manager: httpx.Client, keep: dict[str, Any]
) -> None:
    # 7: the second start of a keep spawned a second runtime, which could not bind.
    before = (deployment.keep(keep["id"])["pid"], deployment.keep_mains())
    assert code_of(manager.post(f"/v1/keeps/{keep['id']}/start")) == (409, "keep-state-conflict")
    assert (deployment.keep(keep["id"])["pid"], deployment.keep_mains()) == before


def test_a_keep_that_is_killed_listens_again_at_the_same_endpoint(deployment: Deployment, keep: dict[str, Any]) -> None:
    # 8: a restarted loader found its own old socket in the way and panicked.
    before = deployment.keep(keep["id"])
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: deployment.keep(keep["id"])["pid"] not in (before["pid"], None))
    eventually(lambda: deployment.keep(keep["id"])["state"] == "ready")
    with inside(deployment, keep) as client:
        assert client.get("/v1/status").status_code == 200
    assert deployment.keep(keep["id"])["endpoint"] == before["endpoint"]


def test_keeps_come_back_after_a_reboot_and_have_limits_and_a_sandbox(fresh_deployment: Deployment) -> None:
    # 9: the unit had no Restart=, no limits, no sandbox and no WantedBy=, so that a reboot lost all keeps.
    unit = configparser.RawConfigParser(strict=False)
    unit.read(ROOT / "systemd" / "keep@.service")
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Service"].keys() >= {
        "dynamicuser",
        "protectsystem",
        "systemcallfilter",
        "memoryswapmax",
        "limitnofile",
    }
    assert "WantedBy=multi-user.target" in (ROOT / "systemd" / "keep-manager.service").read_text().splitlines()
    keep = fresh_deployment.create()
    fresh_deployment.down()
    assert not Path(f"/proc/{keep['pid']}").exists()
    fresh_deployment.serve()
    back = eventually(lambda: [each for each in fresh_deployment.keeps() if each["state"] == "ready"])
    assert [(each["id"], each["endpoint"]) for each in back] == [(keep["id"], keep["endpoint"])]
    assert back[0]["pid"] != keep["pid"]


def test_the_end_of_a_run_is_noticed_and_its_process_reaped(deployment: Deployment, keep: dict[str, Any]) -> None:
    # 10: children were never waited for, so no workload was ever complete or in error.
    with inside(deployment, keep) as client:
        load(client, guest("exit_code"))
        for code in (0, 7):
            run = client.post("/v1/runs", json={"args": [str(code)]}, headers=WAIT).json()
            assert (run["state"], run["exit"]) == ("exited", {"reason": "code", "code": code})
    main = deployment.keep(keep["id"])["pid"]
    family = {main, *_children(main)}
    assert [pid for parent in family for pid in _children(parent) if _state(pid) == "Z"] == []


def test_what_a_stranger_plants_beside_the_keeps_is_not_adopted(fresh_deployment: Deployment) -> None:
    # 11: sockets lay in /tmp under a fixed pattern, and whatever listened there was taken for a keep.
    deployment, runtime = told(fresh_deployment)["deployment"], Path(told(fresh_deployment)["runtime"])
    instance = f"{deployment}-0123456789abcdef"
    assert all(not folder.stat().st_mode & 0o002 for folder in (runtime, *runtime.glob("*/"), *runtime.glob("*/*/")))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(runtime / "deployments" / deployment / "handover.sock"))
        stranger.sendall(msgspec.json.encode(Hello(PROTOCOL_VERSION, instance, "0" * 32)))
        answer, descriptors, _, _ = socket.recv_fds(stranger, 4096, 4)
    assert msgspec.json.decode(answer, type=Handover).result == "refused"
    assert descriptors == []
    planted = runtime / "keeps" / instance
    planted.mkdir(parents=True)
    (planted / "keep.json").write_text('{"version": 1, "certificate": "", "invocation": "", "sandbox": []}')
    fresh_deployment.stop_manager()
    fresh_deployment.serve()
    assert fresh_deployment.keeps() == []


def test_a_long_workload_holds_up_no_request(deployment: Deployment, keep: dict[str, Any]) -> None:
    # 12: the request that brought a payload hung until the payload ended.
    with inside(deployment, keep) as client:
        load(client, example("endless"))
        answer = client.post("/v1/runs", json={})
        assert answer.status_code == 202
        assert client.get("/v1/status").json()["runs_active"] == 1
        stopped = client.post(f"{answer.headers['location']}/stop").json()
        assert stopped["exit"]["reason"] == "stopped"


def test_what_a_guest_prints_goes_to_its_owner_and_into_no_log_of_the_host(
    deployment: Deployment, keep: dict[str, Any]
) -> None:
    # 13: output was in the host's log files only, for the host to read.
    with inside(deployment, keep) as client:
        load(client, guest("args_env"))
        run = client.post("/v1/runs", json={"args": ["plugh"]}, headers=WAIT).json()
        assert "arg plugh" in client.get(f"/v1/runs/{run['id']}/stdout").text
    assert "plugh" not in deployment.log()
    assert "plugh" not in deployment.keepctl("logs", keep["id"]).stdout


def test_a_restart_appends_to_the_log(deployment: Deployment, keep: dict[str, Any]) -> None:
    # 14: the log was written from offset 0, over what was there before.
    (log,) = deployment.home.rglob(f"logs/*{keep['id']}.log")
    before = log.read_bytes()
    deployment.keepctl("restart", keep["id"])
    after = log.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before) > 0


def test_a_port_that_another_program_uses_is_not_given_to_a_keep(
    deployment: Deployment, manager: httpx.Client, keep: dict[str, Any]
) -> None:
    # 15: the port allocator could hand out a port that somebody else listened on.
    path = f"/v1/keeps/{keep['id']}"
    manager.post(f"{path}/stop")
    with eventually(lambda: _listener(keep["endpoint"])):
        assert code_of(manager.post(f"{path}/start")) == (409, "endpoint-taken")
        other = deployment.create()
        assert other["endpoint"] != keep["endpoint"]
        deployment.keepctl("rm", other["id"])
    assert manager.post(f"{path}/start").json()["endpoint"] == keep["endpoint"]


def test_a_keep_can_be_removed_and_nothing_of_it_stays(deployment: Deployment) -> None:
    # 16: there was no way to delete a keep, so the list only grew.
    before = deployment.keep_mains()
    keep = deployment.create()
    deployment.keepctl("rm", keep["id"])
    assert keep["id"] not in [each["id"] for each in deployment.keeps()]
    assert deployment.keep_mains() == before
    assert list(deployment.home.rglob(f"*{keep['id']}*")) == []


def _listener(endpoint: str) -> socket.socket | None:
    """Somebody else at a keep's endpoint, once the keep has let go of it."""
    try:
        return socket.create_server(split_endpoint(endpoint))
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
