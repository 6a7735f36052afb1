"""Whether an event log is believed only if it replays to the quoted registers (attack 31)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log import EventType, parse_tcg_log, replay_ccel
from keep_attestation.tdx.dstack_log import DSTACK_EVENT_TYPE, parse_dstack_log, replay_dstack_log
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.verdict import Examination, Outcome
from tests.unit.keep_attestation.event_log.forge import agile_log, measured
from tests.unit.keep_attestation.intel.forge import td_report
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine, failures
from tests.unit.keep_attestation.intel.vector_cases import windows

EVENTS = [
    measured(1, EventType.EV_SEPARATOR, bytes(4)),
    measured(2, EventType.EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
    measured(3, EventType.EV_IPL, b"kernel_cmdline: quiet"),
    measured(4, EventType.EV_EVENT_TAG, b"workload"),
]
LOG = agile_log(EVENTS)
REGISTERS = replay_ccel(parse_tcg_log(LOG))


def examined(log: bytes | None) -> Examination:
    rtmrs = (REGISTERS[0], REGISTERS[1], REGISTERS[2], REGISTERS[3])
    quote = FORGE.quote(td_report(rtmrs=rtmrs))
    return examine(FORGE.evidence("tdx", quote, FORGE.collateral("tdx"), log=log), anchors=FORGE.anchors)


def log_rule_outcome(examination: Examination) -> Outcome:
    (outcome,) = [
        check.outcome
        for rule in TdxPolicy(require_event_log=True).rules()
        if (check := rule.check(examination.facts)).name == "tdx.log"
    ]
    return outcome


def test_a_log_that_replays_to_all_registers_is_accepted() -> None:
    examination = examined(LOG)
    assert failures(examination) == {}
    assert examination.facts["log_replayed"] is True
    assert log_rule_outcome(examination) is Outcome.PASS


def test_no_log_is_no_replayed_log() -> None:
    examination = examined(None)
    assert failures(examination) == {}
    assert examination.facts["log_replayed"] is False
    assert log_rule_outcome(examination) is Outcome.FAIL


@pytest.mark.parametrize(
    "events",
    [
        EVENTS[:-1],
        [*EVENTS, measured(4, EventType.EV_EVENT_TAG, b"more")],
        [*EVENTS[:3], measured(4, EventType.EV_EVENT_TAG, b"another workload")],
        [*EVENTS[:3], measured(3, EventType.EV_EVENT_TAG, b"workload")],
        [],
    ],
)
def test_a_log_that_lacks_adds_or_changes_an_event_is_refused(events: list[Any]) -> None:
    examination = examined(agile_log(events))
    assert "RTMR" in failures(examination)["tdx.log"]
    assert examination.facts["log_replayed"] is False


def test_a_log_without_sha384_digests_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError):
        examined(LOG[32:])


def test_the_real_log_beside_a_quote_replays_and_no_changed_digest_does(vectors: Path) -> None:
    with_log = [window for window in windows(vectors, "tdx") if (window.vector.folder / "ccel_data.bin").exists()]
    assert with_log
    for window in with_log:
        log = (window.vector.folder / "ccel_data.bin").read_bytes()
        examination = examine(msgspec.structs.replace(window.evidence, log=log), at=window.at)
        assert failures(examination) == {}
        assert examination.facts["log_replayed"] is True
        for event in parse_tcg_log(log)[1:]:
            (digest,) = event.digests.values()
            changed = log.replace(digest, bytes(48), 1)
            evidence = msgspec.structs.replace(window.evidence, log=changed)
            assert "tdx.log" in failures(examine(evidence, at=window.at))


def dstack_event(name: str = "app-id", payload: bytes = b"\x01", **changed: Any) -> dict[str, Any]:
    preimage = DSTACK_EVENT_TYPE.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    return {
        "imr": 3,
        "event_type": DSTACK_EVENT_TYPE,
        "digest": hashlib.sha384(preimage).hexdigest(),
        "event": name,
        "event_payload": payload.hex(),
    } | changed


def dstack_log(*events: dict[str, Any]) -> bytes:
    return json.dumps(events).encode()


def test_a_dstack_log_replays_its_events_into_rtmr3() -> None:
    (event,) = events = parse_dstack_log(dstack_log(dstack_event()))
    assert (event.name, event.payload) == ("app-id", b"\x01")
    assert replay_dstack_log(events)[3] == hashlib.sha384(bytes(48) + event.digest).digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"event": "compose-hash"},
        {"event_payload": "02"},
        {"event_type": 1},
        {"imr": 4},
        {"imr": -1},
        {"digest": "00"},
        {"digest": "zz"},
        {"event_payload": "z"},
        {"event": "\ud800"},
    ],
)
def test_a_changed_dstack_event_is_refused_because_its_digest_is_over_name_and_payload(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_dstack_log(dstack_log(dstack_event(**changed)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"[1]", b"\xff", bytes(2 * 1024 * 1024)])
def test_a_malformed_dstack_log_raises_nothing_but_our_error(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_dstack_log(data)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_dstack_log(data: bytes) -> None:
    try:
        assert parse_dstack_log(data) == ()
    except MalformedEvidenceError:
        return


def test_a_real_dstack_log_replays_to_the_quoted_registers(vectors: Path) -> None:
    reports = list((vectors / "tdx").glob("*/quote-report.json"))
    assert reports
    for path in reports:
        facts = json.loads((path.parent / "expected.json").read_text())["facts"]
        events = parse_dstack_log(json.loads(path.read_text())["event_log"].encode())
        registers = {f"rt_mr{number}": value.hex() for number, value in replay_dstack_log(events).items()}
        assert registers.items() <= facts.items()
        assert any(event.type == DSTACK_EVENT_TYPE for event in events)
