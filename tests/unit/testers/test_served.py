"""`keepctl calls` and `keepctl top`, as processes against a deployment."""

from __future__ import annotations

import json

import msgspec

from keep_protocol.keep_api import CallResult, ServedCounts, ServedUsage
from keep_protocol.served_api import CallList, CallRecord, RequestList, RequestRecord
from keep_protocol.states import ServedOutcome
from tests.unit.keep_client.servers import json_reply
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import NOW, FakeDeployment

USAGE = ServedUsage(wall=0.0125, cpu=0.003, memory=24 << 20, input=7, output=1536)
FIGURES = ["12.50", "ms", "3.00", "ms", "24", "MiB", "7", "B", "1.5", "KiB"]


def test_the_newest_calls_and_requests_are_tables_or_documents(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    keep.calls = CallList(
        (
            CallRecord(NOW, "add", ServedOutcome.ANSWERED, USAGE),
            CallRecord(NOW, "\x1b[2J", ServedOutcome.REFUSED, code="function-not-found"),
        )
    )
    keep.http_requests = RequestList((RequestRecord(NOW, "GET", "/x", ServedOutcome.TRAPPED, 200, USAGE, trap="t"),))
    calls = keepctl("calls", "prices").stdout
    assert calls.splitlines()[1].split() == [NOW, "add", "answered", *FIGURES]
    assert calls.splitlines()[2].split() == [NOW, "\\x1b[2J", "refused", "-", "-", "-", "-", "-"]
    assert json.loads(keepctl("calls", "prices", "--json").stdout)[0]["usage"] == msgspec.structs.asdict(USAGE)
    requests = keepctl("calls", "prices", "--http").stdout
    assert requests.splitlines()[1].split() == [NOW, "GET", "/x", "200", "trapped", *FIGURES]
    assert json.loads(keepctl("calls", "prices", "--http", "--json").stdout)[0]["trap"] == "t"


def test_a_call_says_what_it_used_only_if_it_is_asked(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    keep.function = lambda name, request: json_reply(CallResult(msgspec.Raw(b"42"), USAGE))
    plain = keepctl("call", "prices", "add")
    assert (plain.stdout, plain.stderr) == ("42\n", "")
    told = keepctl("call", "prices", "add", "--usage")
    assert told.stdout == "42\n"
    assert told.stderr == "keepctl: wall 12.50 ms, cpu 3.00 ms, memory 24 MiB, in 7 B, out 1.5 KiB\n"


def test_calls_in_flight_are_shown_above_the_runs(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "prices")
    (keep,) = fake.keeps.values()
    assert keepctl("top", "prices", "--once").stdout.split()[0] == "RUN"
    keep.counts = ServedCounts(active=2, waiting=1, answered=30, failed=4, refused=5, abandoned=6)
    lines = keepctl("top", "prices", "--once").stdout.splitlines()
    assert lines[0].split() == ["ACTIVE", "WAITING", "ANSWERED", "FAILED", "REFUSED", "ABANDONED", "PER", "SECOND"]
    assert lines[1].split() == ["calls", "2", "1", "30", "4", "5", "6", "-"]
    document = json.loads(keepctl("top", "prices", "--json").stdout)
    assert (document["runs"], document["calls"]["answered"], document["requests"]["answered"]) == ([], 30, 0)
