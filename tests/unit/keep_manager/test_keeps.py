"""The life of keeps over the API, with a supervisor in memory and everything else real."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import msgspec

from keep_manager.config import Home, load_settings
from keep_manager.supervisor.interface import ActiveState, UnitStatus
from keep_protocol.errors import ErrorCode
from keep_protocol.manager_api import Keep
from tests.unit.keep_manager.fake_supervisor import FakeSupervisor, Unit
from tests.unit.keep_manager.running import Running, keep_body, operator_of, running


def create(client: httpx.Client, name: str) -> dict[str, object]:
    answer = client.post("/v1/keeps", json=keep_body(name))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def state_of(served: Running, name: str) -> tuple[str, str | None]:
    entry = next(entry for entry in served.manager.context.keeps.all() if entry.row.name == name)
    return entry.state, entry.reason


def kinds(client: httpx.Client) -> list[str]:
    return [event["kind"] for event in client.get("/v1/events").json()["events"]]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_created_keep_answers_with_the_key_that_its_record_names(manager: Running) -> None:
    client = manager.client()
    answer = client.post("/v1/keeps", json=keep_body("one"))
    keep = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/keeps/{keep['id']}"
    assert (keep["state"], keep["name"], keep["owner"]) == ("ready", "one", operator_of(manager.home).id)
    record = client.get("/v1/keeps/one/record").json()
    assert (record["id"], record["endpoint"]) == (keep["id"], keep["endpoint"])
    assert record["certificate"] == keep["certificate"]
    assert record["spec_digest"] == keep["spec_digest"]
    assert kinds(client) == ["keep-created", "keep-ready"]


def test_the_detail_says_of_the_sandbox_what_the_keep_found(manager: Running) -> None:
    client = manager.client()
    create(client, "one")
    detail = client.get("/v1/keeps/one").json()
    assert {fact["name"]: fact["status"] for fact in detail["sandbox"]} == {
        "no-network": "verified now",
        "own-user": "not effective",
    }
    assert detail["limits_enforced"] is True


def test_a_removed_keep_leaves_events_only(manager: Running) -> None:
    client = manager.client()
    keep = create(client, "one")
    assert client.delete("/v1/keeps/one").status_code == 204
    assert code_of(client.get("/v1/keeps/one")) == (404, "keep-not-found")
    assert manager.supervisor.units == {}
    assert list((manager.supervisor.paths.runtime / "hosts").iterdir()) == []
    assert kinds(client) == ["keep-created", "keep-ready", "keep-removed"]
    with socket.create_server(("127.0.0.1", int(str(keep["endpoint"]).rpartition(":")[2]))):
        pass  # its port is free again


def test_stop_and_start_keep_the_endpoint_and_change_the_key(manager: Running) -> None:
    client = manager.client()
    before = create(client, "one")
    stopped = client.post("/v1/keeps/one/stop").json()
    assert (stopped["state"], stopped["desired"], stopped["certificate"]) == ("stopped", "stopped", None)
    refused = client.get("/v1/keeps/one/record")
    assert code_of(refused) == (409, "keep-state-conflict")
    assert "keepctl start" in refused.json()["remedy"]
    after = client.post("/v1/keeps/one/start").json()
    assert (after["state"], after["endpoint"]) == ("ready", before["endpoint"])
    assert after["certificate"] != before["certificate"]
    again = client.post("/v1/keeps/one/restart").json()
    assert (again["state"], again["endpoint"]) == ("ready", before["endpoint"])


def test_acts_that_do_not_fit_the_state_are_conflicts(manager: Running) -> None:
    client = manager.client()
    create(client, "one")
    assert code_of(client.post("/v1/keeps/one/start")) == (409, "keep-state-conflict")
    client.post("/v1/keeps/one/stop")
    assert code_of(client.post("/v1/keeps/one/stop")) == (409, "keep-state-conflict")
    assert code_of(client.post("/v1/keeps/one/restart")) == (409, "keep-state-conflict")


def test_a_taken_endpoint_fails_the_keep_and_never_moves_it(manager: Running) -> None:
    client = manager.client()
    keep = create(client, "one")
    client.post("/v1/keeps/one/stop")
    with socket.create_server(("127.0.0.1", int(str(keep["endpoint"]).rpartition(":")[2]))):
        assert code_of(client.post("/v1/keeps/one/start")) == (409, ErrorCode.ENDPOINT_TAKEN)
    shown = client.get("/v1/keeps/one").json()["keep"]
    assert (shown["state"], shown["endpoint"]) == ("failed", keep["endpoint"])
    assert shown["reason"].startswith("endpoint-taken: ")
    assert client.post("/v1/keeps/one/start").json()["endpoint"] == keep["endpoint"]


def test_a_keep_that_does_not_start_is_undone_and_its_log_quoted(manager: Running) -> None:
    client = manager.client()
    manager.supervisor.failing = "exit-code"
    answer = client.post("/v1/keeps", json=keep_body("one"))
    assert code_of(answer) == (502, "keep-start-failed")
    assert "the reason why" in answer.json()["detail"]
    assert client.get("/v1/keeps").json()["keeps"] == []
    assert manager.supervisor.units == {}
    assert kinds(client) == ["keep-created", "create-undone"]


def test_a_unit_that_dies_for_good_makes_its_keep_failed(manager: Running) -> None:
    client = manager.client()
    create(client, "one")
    (instance,) = manager.supervisor.units
    manager.loop.call_soon_threadsafe(manager.supervisor.change, instance, ActiveState.FAILED, "start-limit-hit")
    manager.wait_for(lambda: state_of(manager, "one")[0] == "failed")
    assert str(state_of(manager, "one")[1]).startswith("start-limit-hit: ")
    assert kinds(client)[-1] == "keep-failed"
    # It does not become ready by waiting.
    refused = client.get("/v1/keeps/one/record")
    assert code_of(refused) == (409, "keep-state-conflict")
    assert all(word in refused.json()["remedy"] for word in ("keepctl logs", "keepctl start"))
    assert client.post("/v1/keeps/one/start").json()["state"] == "ready"


def test_a_unit_that_others_stopped_makes_its_keep_failed(manager: Running) -> None:
    create(manager.client(), "one")
    (instance,) = manager.supervisor.units
    manager.loop.call_soon_threadsafe(manager.supervisor.change, instance, ActiveState.INACTIVE)
    manager.wait_for(lambda: state_of(manager, "one")[0] == "failed")
    assert str(state_of(manager, "one")[1]).startswith("stopped-outside: ")


def test_a_keep_whose_file_names_another_key_is_never_ready(manager: Running) -> None:
    client = manager.client()
    create(client, "one")
    create(client, "two")
    lifecycle = manager.manager.context.lifecycle
    instances = {entry.row.name: lifecycle.instance(entry) for entry in lifecycle.entries.values()}
    keeps = manager.supervisor.paths.runtime / "keeps"
    foreign = (keeps / instances["two"] / "keep.json").read_bytes()

    async def forge() -> None:
        supervisor = manager.supervisor
        await supervisor.stop(instances["one"])
        original = supervisor._serve

        async def serve(instance: str, *rest: object) -> object:
            server = await original(instance, *rest)  # type: ignore[arg-type]
            own = (keeps / instance / "keep.json").read_bytes()
            invocation = supervisor.units[instance].status.invocation or ""
            other = supervisor.units[instances["two"]].status.invocation or ""
            assert own != foreign
            (keeps / instance / "keep.json").write_bytes(foreign.replace(other.encode(), invocation.encode()))
            return server

        supervisor._serve = serve  # type: ignore[method-assign,assignment]

    manager.call(forge)
    manager.wait_for(lambda: state_of(manager, "one")[0] == "failed")
    answer = client.post("/v1/keeps/one/start")
    assert code_of(answer) == (502, "keep-start-failed")
    assert "another key answers" in answer.json()["detail"]
    assert state_of(manager, "one")[0] == "failed"


def test_a_silent_supervisor_makes_answers_stale_and_refuses_acts(manager: Running) -> None:
    client = manager.client()
    create(client, "one")
    manager.supervisor.alive = False
    listed = client.get("/v1/keeps").json()
    assert (listed["stale"], listed["keeps"][0]["stale"], listed["keeps"][0]["state"]) == (True, True, "ready")
    assert client.get("/v1/health").json()["status"] == "degraded"
    for answer in (
        client.post("/v1/keeps", json=keep_body("two")),
        client.post("/v1/keeps/one/stop"),
        client.delete("/v1/keeps/one"),
    ):
        assert code_of(answer) == (503, "supervisor-unavailable")
    manager.supervisor.alive = True
    assert client.delete("/v1/keeps/one").status_code == 204


def test_a_restarted_manager_finds_living_keeps_ready_and_starts_missing_ones(folder: Path, home: Home) -> None:
    settings = load_settings(home)
    first, second = FakeSupervisor(folder), FakeSupervisor(folder)
    with running(home, settings, first) as served:
        client = served.client()
        before = create(client, "one")
        create(client, "two")
        client.post("/v1/keeps/two/stop")
    with running(home, settings, second) as served:  # as after a reboot: no unit is there
        served.wait_for(lambda: state_of(served, "one")[0] == "ready")
        assert state_of(served, "two")[0] == "stopped"
        after = served.client().get("/v1/keeps/one").json()["keep"]
        assert (after["id"], after["endpoint"]) == (before["id"], before["endpoint"])
        assert second.started == [f"{settings.deployment}-{before['id']}"]


def test_units_without_record_are_orphans_and_those_of_others_foreign(
    folder: Path, home: Home, supervisor: FakeSupervisor
) -> None:
    settings = load_settings(home)
    orphan, foreign = f"{settings.deployment}-{'a' * 16}", f"ffffffff-{'b' * 16}"
    for instance in (orphan, foreign):
        status = UnitStatus(instance, ActiveState.ACTIVE, "running", "success", 1, "c" * 32, 0)
        supervisor.units[instance] = Unit(status)
    with running(home, settings, supervisor) as served:
        listed = served.client().get("/v1/keeps").json()
    assert (listed["keeps"], listed["orphans"], listed["foreign"]) == ([], [orphan], [foreign])
    assert supervisor.units.keys() == {orphan, foreign}


def test_answers_decode_as_the_protocol_types(manager: Running) -> None:
    answer = manager.client().post("/v1/keeps", json=keep_body())
    keep = msgspec.json.decode(answer.content, type=Keep)
    assert keep.name == f"keep-{keep.id[:8]}"
