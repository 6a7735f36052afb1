"""The truth on disk: specs, endpoints, desired state, announced acts, events (SQLite).

One connection, used from the event loop's thread only. A commit is one fsync (`synchronous=FULL`), so what was
announced survives a power cut. What is about to be done is committed before it is done: `Phase`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from keep_manager.errors import StoreError, StoreFullError
from keep_protocol.manager_api import Event
from keep_protocol.states import Desired, KeepState

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE keeps (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    spec BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    created_at TEXT NOT NULL,
    desired TEXT NOT NULL,
    phase TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    invocation TEXT,
    certificate TEXT,
    UNIQUE (owner, name)
) STRICT;
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    keep TEXT,
    owner TEXT,
    actor TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_owner ON events (owner, cursor);
CREATE TABLE idempotency (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    request BLOB NOT NULL,
    keep TEXT NOT NULL,
    answer BLOB,
    created_at TEXT NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_keep ON idempotency (keep);
"""

DENIED_KIND = "request-denied"
MAX_DENIED_EVENTS = 10_000
"""Whoever is refused writes into our database; so what it can fill is bounded."""


class Phase(StrEnum):
    """Which act on a keep was announced and is perhaps not done."""

    CREATING = "creating"
    SETTLED = "settled"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class KeepRow:
    """A keep's record. `invocation` and `certificate` are those of its last verified life."""

    id: str
    name: str
    owner: str
    spec: bytes
    endpoint: str
    created_at: str
    desired: Desired
    phase: Phase
    state: KeepState
    reason: str | None = None
    invocation: str | None = None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no place in the order yet."""

    kind: str
    keep: str | None = None
    owner: str | None = None
    actor: str | None = None
    detail: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's word for one request, and the digest of that request."""

    owner: str
    key: str
    request: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """What came of a request: the keep, and its answer once there was one."""

    request: bytes
    keep: str
    answer: bytes | None


def timestamp() -> str:
    """Now, as RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Store:
    """The open database. Every method raises `StoreError`, or `StoreFullError` when the disk is full."""

    def __init__(self, path: Path) -> None:
        """Open or create the database; refuses a damaged one and one of another schema."""
        self._path = path
        # SQLite gives its log and its shared memory the mode of the database.
        path.touch(mode=0o600)
        with self._errors():
            self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Write the log back and let go of the file."""
        self._connection.close()

    def keeps(self) -> list[KeepRow]:
        """All records, oldest first."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT id, name, owner, spec, endpoint, created_at, desired, phase, state, reason, invocation,"
                " certificate FROM keeps ORDER BY created_at, id"
            ).fetchall()
        try:
            return [_keep_row(row) for row in rows]
        except ValueError as error:
            raise StoreError(f"{self._path} holds a state that this version does not know: {error}") from None

    def announce(self, row: KeepRow, event: NewEvent, key: IdempotencyKey | None) -> Event:
        """Record a keep that is about to be made."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO keeps (id, name, owner, spec, endpoint, created_at, desired, phase, state, reason,"
                " invocation, certificate) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row.id, row.name, row.owner, row.spec, row.endpoint, row.created_at),
                    *(row.desired.value, row.phase.value, row.state.value),
                    *(row.reason, row.invocation, row.certificate),
                ),
            )
            if key is not None:
                connection.execute(
                    "INSERT INTO idempotency (owner, key, request, keep, created_at) VALUES (?, ?, ?, ?, ?)",
                    (key.owner, key.key, key.request, row.id, row.created_at),
                )
            return self._append(event)

    def update(self, row: KeepRow, event: NewEvent | None = None, answer: bytes | None = None) -> Event | None:
        """Record a keep's new state; `answer` is kept for a repetition of the request that made it."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE keeps SET desired = ?, phase = ?, state = ?, reason = ?, invocation = ?, certificate = ?"
                " WHERE id = ?",
                (
                    *(row.desired.value, row.phase.value, row.state.value),
                    *(row.reason, row.invocation, row.certificate, row.id),
                ),
            )
            if answer is not None:
                connection.execute("UPDATE idempotency SET answer = ? WHERE keep = ?", (answer, row.id))
            return self._append(event) if event else None

    def forget(self, keep: str, event: NewEvent) -> Event:
        """Remove a keep's record and whatever would repeat its making; events remain."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM keeps WHERE id = ?", (keep,))
            connection.execute("DELETE FROM idempotency WHERE keep = ?", (keep,))
            return self._append(event)

    def idempotent(self, owner: str, key: str) -> IdempotencyRow | None:
        """What an earlier request of the same owner under the same key led to."""
        with self._errors():
            row = self._connection.execute(
                "SELECT request, keep, answer FROM idempotency WHERE owner = ? AND key = ?", (owner, key)
            ).fetchone()
        return IdempotencyRow(*row) if row else None

    def append(self, event: NewEvent) -> Event:
        """Record an event of its own."""
        with self._transaction():
            return self._append(event)

    def events(self, after: int, limit: int, owner: str | None = None) -> list[Event]:
        """Up to `limit` events behind a cursor, in order; with `owner`, those of its keeps only."""
        condition = "" if owner is None else " AND owner = ?"
        with self._errors():
            rows = self._connection.execute(
                f"SELECT cursor, at, kind, keep, owner, actor, detail FROM events WHERE cursor > ?{condition}"
                " ORDER BY cursor LIMIT ?",
                (after, *(() if owner is None else (owner,)), limit),
            ).fetchall()
        return [_event(row) for row in rows]

    def last_cursor(self) -> int:
        """The cursor of the newest event ever written, 0 when there was none."""
        with self._errors():
            row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def trim_denials(self) -> None:
        """Drop all but the newest events about refused requests."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM events WHERE kind = ? AND cursor <= (SELECT cursor FROM events WHERE kind = ?"
                " ORDER BY cursor DESC LIMIT 1 OFFSET ?)",
                (DENIED_KIND, DENIED_KIND, MAX_DENIED_EVENTS),
            )

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA busy_timeout = 2000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema {version}, this version reads {SCHEMA_VERSION}: "
                "use the version of wasmkeep that wrote it"
            )
        if (problem := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StoreError(f"{self._path} is damaged ({problem}): restore it from a backup of the home")

    def _append(self, event: NewEvent) -> Event:
        moment = timestamp()
        detail = event.detail or {}
        cursor = self._connection.execute(
            "INSERT INTO events (at, kind, keep, owner, actor, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (moment, event.kind, event.keep, event.owner, event.actor, msgspec.json.encode(detail).decode()),
        ).lastrowid
        if cursor is None:
            raise StoreError(f"{self._path} gave an event no cursor")
        return Event(cursor, moment, event.kind, event.keep, event.owner, event.actor, detail)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk can end the transaction by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            primary = code & 0xFF if code is not None else None
            if primary == sqlite3.SQLITE_FULL:
                raise StoreFullError(f"the disk of {self._path} is full: free some space there") from None
            if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise StoreError(f"{self._path} is damaged ({error}): restore it from a backup of the home") from None
            raise StoreError(f"{self._path}: {error}") from None


def _keep_row(row: tuple[Any, ...]) -> KeepRow:
    keep, name, owner, spec, endpoint, created_at, desired, phase, state, reason, invocation, certificate = row
    return KeepRow(
        id=keep,
        name=name,
        owner=owner,
        spec=spec,
        endpoint=endpoint,
        created_at=created_at,
        desired=Desired(desired),
        phase=Phase(phase),
        state=KeepState(state),
        reason=reason,
        invocation=invocation,
        certificate=certificate,
    )


def _event(row: tuple[Any, ...]) -> Event:
    cursor, at, kind, keep, owner, actor, detail = row
    return Event(cursor, at, kind, keep, owner, actor, msgspec.json.decode(detail, type=dict[str, str]))
