"""Network brokers over the API: who may have one, when it is started and stopped, and what is found of it again."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from keep_manager.config import Home, TenantNetwork, load_settings
from keep_manager.network_admission import check_tenant
from keep_manager.supervisor.interface import ActiveState, UnitKind, UnitStatus
from keep_protocol.broker import BrokerConfiguration
from keep_protocol.errors import RefusalError
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.spec import spec_digest
from keep_protocol.states import KeepState
from tests.unit.keep_manager.fake_supervisor import FakeSupervisor
from tests.unit.keep_manager.running import Running, keep_body, running
from tests.unit.keep_net.brokered import free_port, policy_of


def body(name: str, policy: NetworkPolicy) -> dict[str, Any]:
    """A body of `POST /v1/keeps` with this network."""
    made = keep_body(name)
    made["spec"]["network"] = msgspec.to_builtins(policy)
    return made


def create(client: httpx.Client, name: str, policy: NetworkPolicy) -> dict[str, Any]:
    answer = client.post("/v1/keeps", json=body(name, policy))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def broker(client: httpx.Client, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = client.get(f"/v1/keeps/{name}").json()["broker"]
    return found


def test_a_keep_with_a_network_gets_a_broker_and_tells_of_it(manager: Running) -> None:
    client = manager.client()
    keep = create(client, "one", policy_of(["example.com"], listen=[port := free_port()]))
    instance = _instance(manager, keep["id"])
    assert broker(client, "one") == {"unit": f"keep-net@{instance}.service", "state": "active"}
    told = msgspec.json.decode(manager.supervisor.broker_configurations[instance], type=BrokerConfiguration)
    assert told.spec_digest == keep["spec_digest"] == spec_digest(told.spec.encode())
    assert told.listen_address == "127.0.0.1"
    assert f'"listen":[{port}]' in told.spec


def test_a_keep_without_a_network_gets_none(manager: Running) -> None:
    client = manager.client()
    assert client.post("/v1/keeps", json=keep_body("one")).status_code == 201
    assert broker(client, "one") is None
    assert manager.supervisor.broker_units == {}


def test_rules_that_only_deny_are_no_network(manager: Running) -> None:
    client = manager.client()
    create(client, "one", policy_of(deny=["example.com"]))
    assert broker(client, "one") is None


def test_a_broker_goes_and_comes_with_its_keep(manager: Running) -> None:
    client = manager.client()
    create(client, "one", policy_of(["example.com"]))
    client.post("/v1/keeps/one/stop")
    assert manager.supervisor.broker_units == {}
    client.post("/v1/keeps/one/start")
    assert len(manager.supervisor.broker_units) == 1
    client.delete("/v1/keeps/one")
    assert manager.supervisor.broker_units == {}


def test_a_keep_whose_broker_does_not_start_is_not_made(manager: Running) -> None:
    client = manager.client()
    manager.supervisor.broker_failing = "exit-code"
    answer = client.post("/v1/keeps", json=body("one", policy_of(["example.com"])))
    assert (answer.status_code, answer.json()["code"]) == (502, "keep-start-failed")
    assert "network-broker: exit-code" in answer.json()["detail"]
    assert client.get("/v1/keeps").json()["keeps"] == []
    assert manager.supervisor.units == {}


def test_a_list_that_contradicts_itself_is_refused_with_the_rules_named(manager: Running) -> None:
    wanted = body("one", policy_of(["example.com"]))
    wanted["spec"]["network"]["egress"]["deny"] = wanted["spec"]["network"]["egress"]["allow"]
    answer = manager.client().post("/v1/keeps", json=wanted)
    assert answer.status_code == 422
    assert "allow[0] example.com:443" in answer.json()["detail"]
    assert "deny[0] example.com:443" in answer.json()["detail"]
    assert answer.json()["field"] == "spec.network"


def test_a_port_that_is_taken_is_refused_and_named(manager: Running) -> None:
    client = manager.client()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = client.post("/v1/keeps", json=body("one", policy_of(listen=[free_port(), port])))
    assert (answer.status_code, answer.json()["code"]) == (409, "port-taken")
    assert answer.json()["field"] == "spec.network.listen[1]"
    keep = create(client, "two", policy_of(listen=[port]))
    for taken in (port, int(keep["endpoint"].rpartition(":")[2])):
        answer = client.post("/v1/keeps", json=body("three", policy_of(listen=[taken])))
        assert "another keep has it" in answer.json()["detail"]


def test_what_the_host_does_not_let_tenants_have_is_refused_by_field() -> None:
    private = policy_of(["example.com", "10.0.0.0/8:*+private"])
    with pytest.raises(RefusalError, match="does not let tenants") as refused:
        check_tenant(private, TenantNetwork())
    assert refused.value.field == "spec.network.egress.allow[1].private"
    check_tenant(private, TenantNetwork(private_egress=True))
    with pytest.raises(RefusalError, match="ports 1024 to 65535, and not on 443") as refused:
        check_tenant(policy_of(listen=[8080, 443]), TenantNetwork())
    assert refused.value.field == "spec.network.listen[1]"
    check_tenant(policy_of(listen=[443]), TenantNetwork(listen_ports=(443, 443)))


def test_a_broker_that_is_missing_is_started_and_one_that_is_there_left_alone(manager: Running) -> None:
    client = manager.client()
    for name in ("one", "two"):
        create(client, name, policy_of(["example.com"]))
    missing = next(iter(manager.supervisor.broker_units))
    del manager.supervisor.broker_units[missing]
    manager.supervisor.broker_configurations.clear()
    reconciler = manager.manager._reconciler
    manager.call(lambda: reconciler.survey(start_missing=False))
    entries = manager.manager.context.keeps.all()
    manager.wait_for(lambda: all(entry.broker is ActiveState.ACTIVE for entry in entries))
    assert list(manager.supervisor.broker_configurations) == [missing]
    assert {entry.state for entry in entries} == {KeepState.READY}


def test_a_broker_that_cannot_be_started_again_leaves_its_keep_alone(manager: Running) -> None:
    client = manager.client()
    create(client, "one", policy_of(["example.com"]))
    manager.supervisor.broker_units.clear()
    manager.supervisor.broker_failing = "exit-code"
    reconciler = manager.manager._reconciler
    manager.call(lambda: reconciler.survey(start_missing=False))
    (entry,) = manager.manager.context.keeps.all()
    manager.wait_for(lambda: entry.broker is ActiveState.FAILED)
    assert broker(client, "one") == {"unit": f"keep-net@{_instance(manager, entry.id)}.service", "state": "failed"}
    assert client.get("/v1/keeps/one").json()["keep"]["state"] == "ready"


def test_brokers_without_a_record_are_orphans_and_those_of_others_foreign(
    folder: Path, home: Home, supervisor: FakeSupervisor
) -> None:
    settings = load_settings(home)
    orphan, foreign = f"{settings.deployment}-{'a' * 16}", f"ffffffff-{'b' * 16}"
    for instance in (orphan, foreign):
        supervisor.broker_units[instance] = UnitStatus(
            instance, ActiveState.ACTIVE, "running", "success", 1, "c" * 32, 0, UnitKind.BROKER
        )
    with running(home, settings, supervisor) as served:
        listed = served.client().get("/v1/keeps").json()
    assert (listed["orphans"], listed["foreign"]) == ([f"keep-net@{orphan}"], [f"keep-net@{foreign}"])
    assert supervisor.broker_units.keys() == {orphan, foreign}


def _instance(manager: Running, keep_id: str) -> str:
    return f"{manager.manager.context.settings.deployment}-{keep_id}"
