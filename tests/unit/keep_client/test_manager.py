"""Tests of `keep_client.manager`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from keep_client import (
    AsyncManagerClient,
    ConnectionFailedError,
    Credentials,
    InvalidArgumentError,
    ManagerClient,
    ProblemError,
    ProtocolError,
    SpecMismatchError,
    new_spec,
    principal_of,
)
from keep_client.event_stream import MAX_PENDING, EventStreamParser, Reconnection
from keep_protocol.errors import ErrorCode
from keep_protocol.manager_api import CreateKeep, Event, EventList, Keep, ManagerFile
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, canonical, decode_spec, spec_digest
from keep_protocol.states import Backend, Desired, KeepRole, KeepState
from tests.unit.keep_client.certificates import ALICE, self_signed
from tests.unit.keep_client.conftest import StartManager
from tests.unit.keep_client.servers import Received, Reply, json_reply, problem_reply

SSE = "text/event-stream"


def _spec() -> KeepSpec:
    return new_spec(principals=[principal_of(self_signed().certificate, [KeepRole.OWNER])])


def _keep(digest: str) -> Keep:
    return Keep(
        id="0123456789abcdef",
        name="prices",
        owner=ALICE,
        state=KeepState.READY,
        reason=None,
        desired=Desired.RUNNING,
        backend=Backend.PROCESS,
        evidence=None,
        endpoint="127.0.0.1:1",
        certificate=None,
        invocation="one",
        pid=1,
        restarts=0,
        spec_digest=digest,
        limits=DEFAULT_LIMITS,
        created_at="2026-01-01T00:00:00Z",
        stale=False,
    )


def _digest_of(received: Received) -> str:
    return spec_digest(canonical(msgspec.json.decode(received.body, type=CreateKeep).spec))


def _event(cursor: int) -> Event:
    return Event(cursor, "", "keep-ready", None, None, None, {})


def _frame(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.cursor, event.kind.encode(), msgspec.json.encode(event))


def test_a_keep_is_created_from_exactly_the_spec_that_was_sent(start_manager: StartManager) -> None:
    server, manager = start_manager(lambda received: json_reply(_keep(_digest_of(received)), 201))
    spec = _spec()
    assert manager.create_keep(spec, name="prices").name == "prices"
    document = msgspec.json.decode(server.received[0].body)
    assert document["name"] == "prices"
    assert decode_spec(msgspec.json.encode(document["spec"])) == spec
    assert set(document["spec"]) == set(KeepSpec.__struct_fields__)


def test_a_keep_that_was_made_from_another_spec_is_refused(start_manager: StartManager) -> None:
    _, manager = start_manager(lambda received: json_reply(_keep("0" * 64), 201))
    with pytest.raises(SpecMismatchError, match="do not use it"):
        manager.create_keep(_spec())


def test_creating_is_repeated_under_the_same_idempotency_key(start_manager: StartManager) -> None:
    broken = iter([True, False])

    def respond(received: Received) -> Reply:
        return Reply(body=b"{", cut_off=True) if next(broken) else json_reply(_keep(_digest_of(received)), 201)

    server, manager = start_manager(respond)
    manager.create_keep(_spec())
    first, second = (request.headers["idempotency-key"] for request in server.received)
    assert first == second


def test_references_cannot_reach_another_route(start_manager: StartManager) -> None:
    server, manager = start_manager(lambda _: Reply(204))
    manager.remove_keep("a?c#d")
    assert server.received[0].path == "/v1/keeps/a%3Fc%23d"
    with pytest.raises(InvalidArgumentError, match="names nothing"):
        manager.remove_keep("..")
    with pytest.raises(InvalidArgumentError, match=r"'a/\.\./b' is no id and no name of a keep"):
        manager.remove_keep("a/../b")


def test_logs_are_text(start_manager: StartManager) -> None:
    server, manager = start_manager(lambda _: Reply(body=b"ready\xff\n", media_type="text/plain; charset=utf-8"))
    assert manager.logs("prices", lines=5) == "ready\ufffd\n"
    assert server.received[0].query == {"lines": "5"}


def test_events_are_paged(start_manager: StartManager) -> None:
    page = EventList((_event(8),), next=8)
    server, manager = start_manager(lambda _: json_reply(page))
    assert manager.list_events(7, limit=1) == page
    assert server.received[0].query == {"cursor": "7", "limit": "1"}


class _Stream:
    """Sends two events a connection and then breaks it off."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def respond(self, received: Received) -> Reply:
        cursor = int(received.headers["last-event-id"])
        self.seen.append(received.headers["accept"])
        return Reply(body=self._frames(cursor), media_type=SSE, cut_off=cursor < 4)

    def _frames(self, cursor: int) -> Iterator[bytes]:
        yield b": hello\n\n"
        yield _frame(_event(cursor + 1))
        yield _frame(_event(cursor + 2))


def test_events_go_on_behind_the_last_one_after_a_break(start_manager: StartManager) -> None:
    stream = _Stream()
    _, manager = start_manager(stream.respond)
    assert [event.cursor for event in islice(manager.events(), 7)] == [1, 2, 3, 4, 5, 6, 7]
    assert stream.seen == [SSE] * 4


def test_async_events_go_on_behind_the_last_one_after_a_break(start_manager: StartManager) -> None:
    _, manager = start_manager(_Stream().respond)

    async def follow() -> list[int]:
        seen: list[int] = []
        async with AsyncManagerClient(manager.url, ca=manager.ca, credentials=manager.credentials) as twin:
            async for event in twin.events():
                seen.append(event.cursor)
                if len(seen) == 5:
                    break
        return seen

    assert asyncio.run(follow()) == [1, 2, 3, 4, 5]


def test_events_without_a_manager_end_when_patience_does(start_manager: StartManager) -> None:
    _, manager = start_manager(lambda _: Reply(body=iter(()), media_type=SSE))
    with pytest.raises(ConnectionFailedError, match="ended its stream"):
        next(manager.events(patience=0))


def test_events_that_are_refused_are_not_asked_for_again(start_manager: StartManager) -> None:
    server, manager = start_manager(lambda _: problem_reply(ErrorCode.FORBIDDEN, "you are nobody here"))
    with pytest.raises(ProblemError, match="nobody"):
        next(manager.events())
    assert len(server.received) == 1


def test_an_event_stream_may_be_cut_anywhere() -> None:
    raw = b": ping\r\n\r\n" + _frame(_event(1)).replace(b"\n", b"\r\n") + _frame(_event(2))
    for size in (1, 2, 3, len(raw)):
        parser = EventStreamParser()
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert [event.cursor for piece in pieces for event in parser.feed(piece)] == [1, 2]


@pytest.mark.parametrize("raw", [b"data: {}\n\n", b"data: x\n\n", b"data: \xff\n\n", b"data: " + b"x" * MAX_PENDING])
def test_an_event_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        EventStreamParser().feed(raw)


def test_reconnecting_becomes_slower_and_ends() -> None:
    reconnection = Reconnection(patience=10.0)
    delays = list(iter(reconnection.next_delay, None))
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    reconnection.succeeded()
    assert reconnection.next_delay() == 0.25


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://user@127.0.0.1:1", "https://127.0.0.1:1/x", "https://"]
)
def test_a_manager_is_https_and_an_address(url: str, tmp_path: Path, credentials: Credentials) -> None:
    with pytest.raises(InvalidArgumentError, match="expected"):
        ManagerClient(url, ca=tmp_path, credentials=credentials)


def test_a_home_names_its_manager(start_manager: StartManager, tmp_path: Path) -> None:
    _, manager = start_manager(lambda _: Reply(body=b"# HELP", media_type="text/plain"))
    pki = tmp_path / "config" / "pki"
    pki.mkdir(parents=True)
    self_signed().saved(pki, "operator")
    with pytest.raises(InvalidArgumentError, match="keep-manager serve"):
        ManagerClient.from_home(tmp_path)
    file = ManagerFile(manager.url, str(manager.ca), 1, "01234567", "private", "/run")
    (tmp_path / "manager.json").write_bytes(msgspec.json.encode(file))
    with ManagerClient.from_home(tmp_path) as found:
        assert found.metrics() == "# HELP"
    (tmp_path / "manager.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="not what a manager writes"):
        ManagerClient.from_home(tmp_path)
