"""The manager looks at its keeps' evidence: what fails once too often is an event, and stays one until it is right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from keep_manager.entry import KeepEntry
from keep_manager.errors import ConfigurationError, ProbeError
from keep_manager.events import EventLog
from keep_manager.keep_file import spki_digest_of
from keep_manager.store import KeepRow, Phase, Store
from keep_manager.watch_settings import WatchAction, WatchSettings, read_watch
from keep_manager.watching import KeepWatch
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import Event
from keep_protocol.spec import canonical
from keep_protocol.states import Desired, KeepState
from tests.unit.app_loader.execution_harness import spec
from tests.unit.keep_attestation.ratls.makers import MEASUREMENT, FakeKeep, make_certificate

ID = "0123456789abcdef"


class Watched:
    """One keep, what answers at its endpoint, and what has become of it."""

    def __init__(self, folder: Path, *, evidence: EvidenceKind | None = EvidenceKind.SIMULATED) -> None:
        raw = canonical(msgspec.structs.replace(spec(), evidence=evidence))
        row = KeepRow(
            id=ID,
            name="one",
            owner="spiffe://d/user/a",
            spec=raw,
            endpoint="127.0.0.1:1",
            created_at="2026-01-01T00:00:00Z",
            desired=Desired.RUNNING,
            phase=Phase.SETTLED,
            state=KeepState.READY,
            invocation="a" * 32,
        )
        self.folder = folder
        self.entry = KeepEntry.of(row)
        self.answer: bytes | ProbeError = self.certificate()
        self.entry.spki_sha256 = spki_digest_of(self.certificate())
        self.stopped: list[str] = []
        self.store = Store(folder / "manager.db")

    def certificate(self, measurement: bytes = MEASUREMENT, **claims: object) -> bytes:
        made = int(datetime.now(UTC).timestamp())
        told = {"keep": ID, "spec_sha256": bytes.fromhex(self.entry.spec_digest), "issued_at": made, **claims}
        keep = FakeKeep(measurement=measurement)
        return keep.certificate(keep.collection(**told), not_before=datetime.fromtimestamp(made - 60, UTC))

    async def look(self, endpoint: str) -> bytes:
        assert endpoint == self.entry.row.endpoint
        if isinstance(self.answer, ProbeError):
            raise self.answer
        return self.answer

    async def stop(self, entry: KeepEntry) -> None:
        self.stopped.append(entry.id)

    def watch(self, *, failures: int = 0, action: WatchAction = WatchAction.WARN) -> KeepWatch:
        policy = self.folder / "watch.toml"
        policy.write_text(f'[simulated]\nmeasurements = ["{MEASUREMENT.hex()}"]\n')
        settings = WatchSettings(interval=60, failures=failures, action=action, policy=policy)
        return KeepWatch(settings, lambda: [self.entry], self.look, self.stop, EventLog(self.store))

    def events(self) -> list[Event]:
        return self.store.events(0, 100)


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    keep = Watched(folder)
    yield keep
    keep.store.close()


def rounds(watch: KeepWatch, count: int = 1) -> None:
    async def go() -> None:
        for _ in range(count):
            await watch.round()

    asyncio.run(go())


def test_a_keep_that_is_what_it_should_be_is_no_event(watched: Watched) -> None:
    rounds(watched.watch(), 3)
    assert watched.events() == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"measurement": bytes(32)}, "simulated.measurement"),
        ({"spec_sha256": bytes(32)}, "ratls.spec"),
        ({"keep": "f" * 16}, "ratls.keep"),
        ({"issued_at": 1_700_000_000}, "ratls.issued"),
    ],
)
def test_another_code_spec_or_keep_and_old_claims_are_a_failure(
    watched: Watched, changed: dict[str, object], reason: str
) -> None:
    measurement = changed.pop("measurement", MEASUREMENT)
    assert isinstance(measurement, bytes)
    watched.answer = watched.certificate(measurement, **changed)
    rounds(watched.watch())
    (event,) = watched.events()
    assert (event.kind, event.keep, event.detail["action"]) == ("attestation-failed", ID, "warn")
    assert reason in event.detail["reason"]
    assert watched.stopped == []


def test_only_more_failures_in_a_row_than_are_allowed_are_an_event_and_one_alone(watched: Watched) -> None:
    watch = watched.watch(failures=2, action=WatchAction.STOP)
    good, watched.answer = watched.answer, ProbeError("does not answer in TLS")
    rounds(watch, 2)
    watched.answer = good
    rounds(watch)
    watched.answer = ProbeError("does not answer in TLS")
    rounds(watch, 2)
    assert (watched.events(), watched.stopped) == ([], [])
    rounds(watch, 3)
    assert [event.kind for event in watched.events()] == ["attestation-failed"]
    assert watched.stopped == [ID]
    watched.answer = good
    rounds(watch, 2)
    assert [event.kind for event in watched.events()] == ["attestation-failed", "attestation-restored"]
    assert watched.events()[1].detail == {"failures": "5"}


def test_another_life_of_a_keep_begins_anew_and_one_that_is_not_ready_is_left_alone(watched: Watched) -> None:
    watch = watched.watch(failures=1)
    watched.answer = ProbeError("does not answer in TLS")
    for life in range(4):
        watched.entry.row = replace(watched.entry.row, invocation=f"{life:032x}")
        rounds(watch)
    watched.entry.state = KeepState.STOPPED
    rounds(watch, 5)
    assert watched.events() == []


def test_a_keep_without_evidence_is_held_to_the_key_that_it_published(folder: Path) -> None:
    watched = Watched(folder, evidence=None)
    try:
        watched.answer = make_certificate(FakeKeep().key, {})
        rounds(watched.watch())
        (event,) = watched.events()
        assert "another key answers" in event.detail["reason"]
        watched.entry.spki_sha256 = spki_digest_of(watched.answer)
        rounds(watched.watch(), 2)
        assert len(watched.events()) == 1
    finally:
        watched.store.close()


def test_a_policy_that_cannot_be_used_is_said_when_the_manager_starts(watched: Watched) -> None:
    settings = WatchSettings(interval=60, failures=0, action=WatchAction.WARN, policy=watched.folder / "none.toml")
    with pytest.raises(ConfigurationError, match=r"`watch.policy`: .*none\.toml"):
        KeepWatch(settings, list, watched.look, watched.stop, EventLog(watched.store))


def test_settings_are_checked_and_without_the_table_nothing_is_watched(folder: Path) -> None:
    assert read_watch({}, folder) is None
    found = read_watch({"policy": "watch.toml"}, folder)
    assert found == WatchSettings(300, 2, WatchAction.WARN, folder / "watch.toml")
    for table, wrong in (
        ({"interval": 60}, "policy"),
        ({"policy": "p", "interval": 1}, "interval"),
        ({"policy": "p", "interval": "5m"}, "interval"),
        ({"policy": "p", "failures": -1}, "failures"),
        ({"policy": "p", "action": "kill"}, "action"),
    ):
        with pytest.raises(ConfigurationError, match=f"`watch.{wrong}`"):
            read_watch(table, folder)
