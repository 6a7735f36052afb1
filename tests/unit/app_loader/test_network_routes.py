"""The routes about a keep's network: its events and its explained policy."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from app_loader.events import MAX_EVENTS, MAX_ROUTINE_EVENTS
from app_loader.keep import Keep
from app_loader.messages import Response
from keep_protocol.network_api import EgressExplanation, KeepEventList
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.states import KeepEventKind, KeepRole
from tests.unit.app_loader.asking import ask, problem, request
from tests.unit.app_loader.bare_keep import bare_keep
from tests.unit.app_loader.execution_harness import spec
from tests.unit.keep_net.brokered import policy_of

JSON = {"content-type": "application/json"}


def keep_with(policy: NetworkPolicy) -> Keep:
    """A keep with this network and no broker, which does nothing else."""
    return bare_keep(msgspec.structs.replace(spec(), network=policy))


def explain(keep: Keep, question: dict[str, Any], role: KeepRole = KeepRole.OWNER) -> Response:
    return ask(request("POST", "/v1/egress/explain", msgspec.json.encode(question), JSON, [role]), keep)


def events(keep: Keep, query: str = "", role: KeepRole = KeepRole.OWNER) -> Response:
    return ask(request("GET", f"/v1/events{query}", roles=[role]), keep)


def listed(response: Response) -> KeepEventList:
    assert response.status == 200
    return msgspec.json.decode(cast(bytes, response.body), type=KeepEventList)


def explained(response: Response) -> EgressExplanation:
    assert response.status == 200, response.body
    return msgspec.json.decode(cast(bytes, response.body), type=EgressExplanation)


def test_events_come_in_pages() -> None:
    keep = keep_with(policy_of())
    assert listed(events(keep)) == KeepEventList((), 0, 0)
    for number in range(3):
        keep.events.record(KeepEventKind.EGRESS_DENIED, host=f"{number}.example", port=443, method=None)
    first = listed(events(keep, "?limit=2"))
    assert [(event.cursor, event.detail) for event in first.events] == [
        (1, {"host": "0.example", "port": "443"}),
        (2, {"host": "1.example", "port": "443"}),
    ]
    assert [event.cursor for event in listed(events(keep, f"?cursor={first.next}")).events] == [3]
    assert listed(events(keep, "?cursor=3")).events == ()


def test_a_guest_cannot_fill_the_keep_with_events() -> None:
    keep = keep_with(policy_of())
    for _ in range(MAX_EVENTS + 5):
        keep.events.record(KeepEventKind.EGRESS_DENIED, host="x" * 10_000)
    page = listed(events(keep, "?limit=1"))
    assert (page.events[0].cursor, page.forgotten) == (6, 5)
    assert len(page.events[0].detail["host"]) < 1000


def test_what_a_workload_does_all_day_pushes_out_no_denial(caplog: pytest.LogCaptureFixture) -> None:
    keep = keep_with(policy_of())
    keep.events.record(KeepEventKind.EGRESS_DENIED, host="clinic.example")
    caplog.clear()
    for number in range(MAX_ROUTINE_EVENTS + 5):
        keep.events.record(KeepEventKind.RUN_ENDED, run=f"r{number}", reason="code", code=0, wall=0.5)
    first = listed(events(keep, "?limit=2"))
    assert [event.kind for event in first.events] == ["egress-denied", "run-ended"]
    assert first.events[1].detail == {"run": "r5", "reason": "code", "code": "0", "wall": "0.5"}
    assert (first.next, first.forgotten) == (7, 5)
    rest = listed(events(keep, f"?cursor={first.next}&limit=1000"))
    assert (len(rest.events), rest.forgotten, rest.next) == (MAX_ROUTINE_EVENTS - 1, 0, MAX_ROUTINE_EVENTS + 6)
    # Nor is it for the host.
    assert caplog.text == ""


def test_the_log_which_is_the_hosts_does_not_tell_whom_a_workload_talks_to(caplog: pytest.LogCaptureFixture) -> None:
    keep_with(policy_of()).events.record(KeepEventKind.EGRESS_DENIED, host="clinic.example")
    assert "egress-denied" in caplog.text
    assert "clinic" not in caplog.text


@pytest.mark.parametrize("query", ["?cursor=x", "?cursor=-1", "?limit=0", "?limit=1001", "?cursor=1&cursor=1", "?x=1"])
def test_a_page_that_is_none_is_refused(query: str) -> None:
    assert problem(events(keep_with(policy_of()), query)).code == "field-invalid"


def test_a_cursor_that_was_never_given_out_is_refused() -> None:
    assert problem(events(keep_with(policy_of()), "?cursor=1")).code == "cursor-invalid"


@pytest.mark.parametrize("role", [KeepRole.CALLER, KeepRole.DATA_PROVIDER, KeepRole.RESULT_CONSUMER])
def test_only_owners_and_auditors_see_them(role: KeepRole) -> None:
    keep = keep_with(policy_of())
    assert problem(events(keep, role=role)).code == "forbidden"
    assert problem(explain(keep, {"url": "https://example.com"}, role)).code == "forbidden"
    assert events(keep, role=KeepRole.AUDITOR).status == 200


def test_the_policy_is_explained_for_urls_and_for_hosts() -> None:
    keep = keep_with(policy_of(["8.8.8.8", "127.0.0.1:80"], ["9.9.9.9"]))
    for question in ({"url": "https://8.8.8.8/dns"}, {"host": "8.8.8.8", "port": 443, "method": "GET"}):
        assert explained(explain(keep, question)).decision.allowed
    denied = explained(explain(keep, {"url": "9.9.9.9:443"})).decision
    assert (denied.allowed, denied.rule) == (False, "deny[0] 9.9.9.9:443")
    assert "loopback" in explained(explain(keep, {"url": "http://127.0.0.1"})).decision.reason
    assert listed(events(keep)).events == ()


def test_a_name_that_cannot_be_resolved_is_explained_as_far_as_it_goes() -> None:
    answer = explained(explain(keep_with(policy_of(["example.com"])), {"url": "https://example.com"}))
    assert answer.decision.allowed
    assert answer.decision.addresses == ()
    assert answer.problem == "this keep has no network broker"


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({}, "$"),
        ({"host": "example.com"}, "$"),
        ({"url": "https://example.com", "host": "example.com", "port": 1}, "$"),
        ({"url": "https://user@example.com"}, "$.url"),
        ({"url": "example.com"}, "$.url"),
        ({"host": "0x7f.1", "port": 1}, "$.host"),
        ({"host": "example.com", "port": 0}, "$.port"),
        ({"url": 1}, "$.url"),
        ({"surprise": 1}, "$"),
    ],
)
def test_a_question_about_nobody_is_refused(question: dict[str, Any], field: str) -> None:
    refused = problem(explain(keep_with(policy_of()), question))
    assert (refused.code, refused.field) == ("field-invalid", field)
