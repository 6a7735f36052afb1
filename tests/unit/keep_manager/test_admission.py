"""Repetitions under one key, quotas, owners that would share a user."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import httpx

from keep_manager.roles import Quota
from keep_protocol.spec import MiB
from keep_protocol.states import ManagerRole
from tests.unit.keep_manager.running import Running, keep_body, make_client


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_repeated_request_gets_the_same_answer_and_makes_one_keep(manager: Running) -> None:
    client = manager.client()
    body = keep_body("one")
    answers = [client.post("/v1/keeps", json=body, headers={"Idempotency-Key": "k"}) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(manager.supervisor.units) == 1


def test_a_key_stands_for_one_request_of_one_identity(manager: Running) -> None:
    client = manager.client()
    headers = {"Idempotency-Key": "k"}
    assert client.post("/v1/keeps", json=keep_body("one"), headers=headers).status_code == 201
    assert code_of(client.post("/v1/keeps", json=keep_body("two"), headers=headers)) == (422, "idempotency-mismatch")
    alice = manager.client(make_client(manager.home, "alice", (ManagerRole.TENANT,)))
    assert alice.post("/v1/keeps", json=keep_body("two"), headers=headers).status_code == 201


def test_odd_keys_are_refused(manager: Running) -> None:
    client = manager.client()
    for key in ("", "a" * 256, "a b"):
        answer = client.post("/v1/keeps", json=keep_body(), headers={"Idempotency-Key": key})
        assert code_of(answer) == (422, "field-invalid"), key


def test_a_failed_attempt_can_be_repeated_under_its_key(manager: Running) -> None:
    client = manager.client()
    body, headers = keep_body("one"), {"Idempotency-Key": "k"}
    manager.supervisor.failing = "exit-code"
    assert code_of(client.post("/v1/keeps", json=body, headers=headers)) == (502, "keep-start-failed")
    manager.supervisor.failing = None
    assert client.post("/v1/keeps", json=body, headers=headers).status_code == 201


def test_simultaneous_repetitions_wait_for_one_keep(manager: Running) -> None:
    gate = asyncio.Event()
    manager.supervisor.gate = gate
    body, answers = keep_body("one"), []

    def post(client: httpx.Client) -> None:
        answers.append(client.post("/v1/keeps", json=body, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=post, args=(manager.client(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    requests = manager.manager.context.requests
    manager.wait_for(lambda: len(manager.supervisor.started) == 1)
    manager.loop.call_soon_threadsafe(gate.set)
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(manager.supervisor.started) == 1
    assert requests["POST /v1/keeps", 201] == 3


def test_a_tenant_has_its_quota_and_the_operator_none(manager: Running) -> None:
    quota = Quota(max_keeps=2, max_memory=300 * MiB, max_disk=100 * MiB)
    alice = manager.client(make_client(manager.home, "alice", (ManagerRole.TENANT,), quota))
    small = {"memory": 100 * MiB, "files": 10 * MiB, "workload": 10 * MiB}
    for limits in (small | {"memory": 301 * MiB}, small | {"files": 91 * MiB}):
        assert code_of(alice.post("/v1/keeps", json=keep_body(None, **limits))) == (429, "quota-exceeded")
    assert alice.post("/v1/keeps", json=keep_body("one", **small)).status_code == 201
    over = small | {"memory": 201 * MiB}
    assert code_of(alice.post("/v1/keeps", json=keep_body(None, **over))) == (429, "quota-exceeded")
    assert alice.post("/v1/keeps", json=keep_body("two", **small)).status_code == 201
    assert code_of(alice.post("/v1/keeps", json=keep_body(None, **small))) == (429, "quota-exceeded")
    assert alice.delete("/v1/keeps/one").status_code == 204
    assert alice.post("/v1/keeps", json=keep_body("three", **small)).status_code == 201
    operator = manager.client()
    for name in ("a", "b", "c"):
        assert operator.post("/v1/keeps", json=keep_body(name, **small)).status_code == 201


def test_a_quota_cannot_be_passed_by_asking_twice_at_once(manager: Running) -> None:
    quota = Quota(max_keeps=1, max_memory=2**40, max_disk=2**40)
    alice = make_client(manager.home, "alice", (ManagerRole.TENANT,), quota)
    gate = asyncio.Event()
    manager.supervisor.gate = gate
    statuses = []

    def post(client: httpx.Client) -> None:
        statuses.append(client.post("/v1/keeps", json=keep_body()).status_code)

    threads = [threading.Thread(target=post, args=(manager.client(alice),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    requests = manager.manager.context.requests
    manager.wait_for(lambda: requests["POST /v1/keeps", 429] == 1)
    manager.loop.call_soon_threadsafe(gate.set)
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 429]


def test_a_second_owner_is_refused_where_keeps_share_a_user(manager: Running) -> None:
    manager.supervisor.promises = replace(manager.supervisor.promises, own_uid=False)
    operator = manager.client()
    alice = manager.client(make_client(manager.home, "alice", (ManagerRole.TENANT,)))
    assert operator.post("/v1/keeps", json=keep_body("one")).status_code == 201
    assert code_of(alice.post("/v1/keeps", json=keep_body("two"))) == (409, "owner-refused")
    assert operator.post("/v1/keeps", json=keep_body("two")).status_code == 201


def test_a_client_that_leaves_in_the_middle_does_not_leave_half_a_keep(manager: Running) -> None:
    gate = asyncio.Event()
    manager.supervisor.gate = gate
    client = manager.client()
    try:
        client.post("/v1/keeps", json=keep_body("one"), timeout=0.3)
    except httpx.TimeoutException:
        client.close()
    manager.loop.call_soon_threadsafe(gate.set)
    keeps = manager.manager.context.keeps
    manager.wait_for(lambda: [entry.state for entry in keeps.all()] == ["ready"])
