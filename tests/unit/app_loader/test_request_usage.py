"""What a keep remembers of the HTTP requests that its workload answered or did not, and tells of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from keep_protocol.keep_api import KeepStatus, ServedCounts, ServedUsage
from keep_protocol.network_api import KeepEvent, KeepEventList
from keep_protocol.served_api import RequestList, RequestRecord
from keep_protocol.spec import MiB
from keep_protocol.states import KeepEventKind, ServedOutcome
from tests.unit.app_loader.execution_harness import GUESTS, REPOSITORY
from tests.unit.app_loader.http_keep import HttpKeep, http_keep
from tests.unit.app_loader.serving import PATIENCE


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpKeep]:
    with http_keep(tmp_path_factory.mktemp("http") / "keep", memory=64 * MiB, run_time=2) as keep:
        yield keep


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpKeep]:
    folder = tmp_path_factory.mktemp("wagi") / "keep"
    with http_keep(folder, GUESTS / "wagi.wasm", http={"wagi": True}, run_time=2, memory=64 * MiB) as keep:
        yield keep


def records(keep: HttpKeep) -> tuple[RequestRecord, ...]:
    answer = keep.connect(keep.auditor).ask("GET", "/v1/http-requests")
    return msgspec.json.decode(answer.body, type=RequestList).requests


def counts(keep: HttpKeep) -> ServedCounts:
    return msgspec.json.decode(keep.connect(keep.owner).ask("GET", "/v1/status").body, type=KeepStatus).requests


def events(keep: HttpKeep) -> tuple[KeepEvent, ...]:
    answer = keep.connect(keep.auditor).ask("GET", "/v1/events?limit=1000")
    return msgspec.json.decode(answer.body, type=KeepEventList).events


def newest(keep: HttpKeep, ask: Callable[[], object]) -> RequestRecord:
    """Of the request that is asked, which may be over a moment after its client has its answer."""
    before = sum(msgspec.structs.astuple(counts(keep))[2:])
    ask()
    limit = time.monotonic() + PATIENCE
    while sum(msgspec.structs.astuple(counts(keep))[2:]) == before:
        assert time.monotonic() < limit, "the request does not end"
        time.sleep(0.01)
    return records(keep)[-1]


def usage(record: RequestRecord) -> ServedUsage:
    assert record.usage is not None
    return record.usage


@pytest.mark.parametrize("kind", ["component", "command"])
def test_an_answer_is_remembered_with_what_it_took(kind: str, request: pytest.FixtureRequest) -> None:
    keep: HttpKeep = request.getfixturevalue(kind)
    before = counts(keep)
    path, body = ("/echo", b"x" * 100_000) if kind == "component" else ("/stdin", b"Content-Type: a/b\n\n" + b"x" * 99)
    record = newest(keep, lambda: keep.ask(f"{path}?token=secret", "POST", body))
    assert (record.method, record.path, record.status) == ("POST", path, 200)
    assert (record.outcome, record.code, record.message) == (ServedOutcome.ANSWERED, None, None)
    used = usage(record)
    assert (used.input, used.output) == (len(body), len(body) if kind == "component" else 99)
    assert 0 < used.wall < PATIENCE
    assert 0 < used.cpu < PATIENCE
    assert used.memory > 4 * MiB
    assert counts(keep).answered == before.answered + 1


@pytest.mark.parametrize(
    ("kind", "path", "outcome", "status"),
    [
        ("component", "/trap", ServedOutcome.TRAPPED, None),
        ("component", "/nothing", ServedOutcome.UNANSWERED, None),
        ("component", "/memory", ServedOutcome.MEMORY, None),
        ("component", "/spin", ServedOutcome.TIMEOUT, None),
        ("component", "/trap-late", ServedOutcome.TRAPPED, 200),
        ("component", "/unfinished", ServedOutcome.UNANSWERED, 200),
        ("component", "/spin-late", ServedOutcome.TIMEOUT, 200),
        ("command", "/trap", ServedOutcome.TRAPPED, None),
        ("command", "/nothing", ServedOutcome.UNANSWERED, None),
        ("command", "/memory", ServedOutcome.MEMORY, None),
        ("command", "/spin", ServedOutcome.TIMEOUT, None),
        ("command", "/late", ServedOutcome.EXITED, 200),
    ],
)
def test_a_failure_is_remembered_and_is_an_event(
    kind: str, path: str, outcome: ServedOutcome, status: int | None, request: pytest.FixtureRequest
) -> None:
    keep: HttpKeep = request.getfixturevalue(kind)

    def ask() -> None:
        with contextlib.suppress(EOFError, ValueError, OSError):  # a response that is broken off
            keep.ask(path)

    failed = counts(keep).failed
    record = newest(keep, ask)
    assert (record.path, record.outcome, record.status) == (path, outcome, status)
    assert counts(keep).failed == failed + 1
    event = events(keep)[-1]
    assert event.kind is KeepEventKind.REQUEST_FAILED
    assert (event.detail["path"], event.detail["outcome"]) == (path, outcome.value)
    assert event.detail["message"] == record.message
    assert float(event.detail["wall"]) == usage(record).wall
    assert usage(record).memory > 4 * MiB


def test_requests_that_never_reach_the_guest_are_counted_as_refused(tmp_path: Path) -> None:
    with http_keep(tmp_path / "keep", REPOSITORY / "examples" / "arithmetic" / "arithmetic.wasm") as keep:
        assert keep.ask("/").problem.code == "workload-not-http"
        (record,) = records(keep)
        assert (record.outcome, record.code, record.usage) == (ServedOutcome.REFUSED, "workload-not-http", None)
        assert counts(keep) == ServedCounts(refused=1)
        assert events(keep) == ()


def test_a_client_that_goes_has_abandoned_its_request(tmp_path: Path) -> None:
    # A keep of its own, whose requests have more time than a busy machine needs to see that a client has gone.
    with http_keep(tmp_path / "keep", run_time=int(PATIENCE)) as keep:

        def leave() -> None:
            wire = keep.connect()
            wire.send(b"GET /v1/http/spin-late HTTP/1.1\r\nhost: keep\r\n\r\n")
            assert wire.head() == 200
            assert counts(keep).active == 1
            wire.close()

        record = newest(keep, leave)
        assert (record.path, record.outcome, record.status) == ("/spin-late", ServedOutcome.ABANDONED, 200)
        assert usage(record).wall > 0
