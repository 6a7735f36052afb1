"""Events as pages and as a stream that can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from keep_protocol.states import ManagerRole
from tests.unit.keep_manager.running import Running, keep_body, make_client

STREAM = {"accept": "text/event-stream"}


def take(lines: Iterator[str], count: int) -> list[tuple[int, str]]:
    """The next `count` events of a stream: cursor and kind."""
    taken: list[tuple[int, str]] = []
    cursor = 0
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            cursor = int(value)
        elif name == "event":
            taken.append((cursor, value))
            if len(taken) == count:
                break
    return taken


def test_pages_follow_each_other_without_gap_or_repetition(manager: Running) -> None:
    client = manager.client()
    client.post("/v1/keeps", json=keep_body("one"))
    client.delete("/v1/keeps/one")
    seen, cursor = [], 0
    while page := client.get("/v1/events", params={"cursor": cursor, "limit": 1}).json()["events"]:
        seen += [event["kind"] for event in page]
        cursor = page[-1]["cursor"]
    assert seen == ["keep-created", "keep-ready", "keep-removed"]
    assert client.get("/v1/events", params={"cursor": cursor}).json() == {"events": [], "next": cursor}


def test_a_stream_brings_events_as_they_happen_and_can_be_resumed(manager: Running) -> None:
    watcher, actor = manager.client(), manager.client()
    with watcher.stream("GET", "/v1/events", headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        next(lines)  # the stream stands before anything happens
        actor.post("/v1/keeps", json=keep_body("one"))
        seen = take(lines, 1)
    actor.delete("/v1/keeps/one")
    last = str(seen[-1][0])
    with watcher.stream("GET", "/v1/events", headers=STREAM | {"last-event-id": last}) as answer:
        seen += take(answer.iter_lines(), 2)
    assert seen == [(1, "keep-created"), (2, "keep-ready"), (3, "keep-removed")]


def test_a_tenants_stream_has_only_its_own_keeps(manager: Running) -> None:
    alice = manager.client(make_client(manager.home, "alice", (ManagerRole.TENANT,)))
    operator = manager.client()
    operator.post("/v1/keeps", json=keep_body("one"))
    alice.post("/v1/keeps", json=keep_body("two"))
    with alice.stream("GET", "/v1/events", headers=STREAM) as answer:
        assert take(answer.iter_lines(), 2) == [(3, "keep-created"), (4, "keep-ready")]


def test_a_cursor_from_elsewhere_is_refused(manager: Running) -> None:
    client = manager.client()
    for value in ("99", "x", "-1", "1" * 30):
        answer: httpx.Response = client.get("/v1/events", headers=STREAM | {"last-event-id": value})
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor-invalid"), value
    page = client.get("/v1/events", headers={"last-event-id": "x"})
    assert (page.status_code, page.json()["code"]) == (422, "cursor-invalid")


def test_an_open_stream_does_not_keep_the_manager_from_stopping(manager: Running) -> None:
    client = manager.client()
    with client.stream("GET", "/v1/events", headers=STREAM) as answer:
        lines = answer.iter_lines()
        next(lines)
        manager.loop.call_soon_threadsafe(manager.manager.context.events.close)
        assert [line for line in lines if line] == []
