"""The database: what is committed survives SIGKILL, and damage is reported, not hidden."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from keep_manager import store as store_module
from keep_manager.errors import StoreError, StoreFullError
from keep_manager.store import DENIED_KIND, IdempotencyKey, KeepRow, NewEvent, Phase, Store
from keep_protocol.states import Desired, KeepState

ROW = KeepRow(
    id="0123456789abcdef",
    name="one",
    owner="spiffe://d/user/a",
    spec=b'{"x":1}',
    endpoint="127.0.0.1:1",
    created_at="2026-01-01T00:00:00Z",
    desired=Desired.RUNNING,
    phase=Phase.CREATING,
    state=KeepState.CREATING,
)

_CHILD = """
import sys, os, signal
from pathlib import Path
from keep_manager.store import *
from tests.unit.keep_manager.test_store import ROW
store = Store(Path(sys.argv[1]))
store.announce(ROW, NewEvent("keep-created", ROW.id, ROW.owner), IdempotencyKey(ROW.owner, "k", b"d"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "manager.db"


def test_what_was_announced_survives_sigkill(path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", _CHILD, str(path)], check=False)
    assert child.returncode == -signal.SIGKILL
    store = Store(path)
    assert store.keeps() == [ROW]
    assert [event.kind for event in store.events(0, 10)] == ["keep-created"]
    assert store.idempotent(ROW.owner, "k") is not None
    store.close()


def test_a_keep_goes_through_its_life(path: Path) -> None:
    store = Store(path)
    store.announce(ROW, NewEvent("keep-created", ROW.id, ROW.owner), IdempotencyKey(ROW.owner, "k", b"d"))
    ready = replace(ROW, phase=Phase.SETTLED, state=KeepState.READY, invocation="a" * 32, certificate="pem")
    store.update(ready, NewEvent("keep-ready", ROW.id, ROW.owner), b"answer")
    assert store.keeps() == [ready]
    earlier = store.idempotent(ROW.owner, "k")
    assert earlier is not None
    assert (earlier.request, earlier.keep, earlier.answer) == (b"d", ROW.id, b"answer")
    store.forget(ROW.id, NewEvent("keep-removed", ROW.id, ROW.owner))
    assert (store.keeps(), store.idempotent(ROW.owner, "k")) == ([], None)
    assert [event.kind for event in store.events(0, 10)] == ["keep-created", "keep-ready", "keep-removed"]
    store.close()


def test_a_refused_announcement_leaves_nothing(path: Path) -> None:
    store = Store(path)
    store.announce(ROW, NewEvent("keep-created"), None)
    with pytest.raises(StoreError):
        store.announce(replace(ROW, id="f" * 16), NewEvent("keep-created"), None)  # the name is taken
    assert store.keeps() == [ROW]
    assert store.last_cursor() == 1
    store.close()


def test_cursors_never_repeat_even_when_events_are_trimmed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_DENIED_EVENTS", 2)
    store = Store(path)
    store.append(NewEvent("keep-created"))
    for _ in range(5):
        store.append(NewEvent(DENIED_KIND))
    store.trim_denials()
    assert [event.cursor for event in store.events(0, 10)] == [1, 5, 6]
    store.close()
    store = Store(path)
    assert store.append(NewEvent("x")).cursor == 7
    store.close()


def test_events_are_paged_in_order_and_by_owner(path: Path) -> None:
    store = Store(path)
    for number in range(10):
        store.append(NewEvent("x", owner="ab"[number % 2], detail={"n": str(number)}))
    assert [event.cursor for event in store.events(3, 2)] == [4, 5]
    assert [event.detail["n"] for event in store.events(2, 3, "b")] == ["3", "5", "7"]
    store.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_refused_with_a_remedy(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.*backup"):
        Store(path)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99"):
        Store(path)


def test_a_full_disk_is_a_clear_error_and_changes_nothing(path: Path) -> None:
    store = Store(path)
    store.announce(ROW, NewEvent("keep-created"), None)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be full
    with pytest.raises(StoreFullError, match="free some space"):
        store.append(NewEvent("x", detail={"much": "x" * 100_000}))
    assert store.last_cursor() == 1
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.append(NewEvent("x")).cursor == 2
    store.close()


def test_the_database_is_readable_by_its_owner_only(path: Path) -> None:
    store = Store(path)
    store.append(NewEvent("x"))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    store.close()
