"""What goes over the wire about the newest calls of a workload's functions, and HTTP requests to it."""

from __future__ import annotations

import msgspec

from keep_protocol.keep_api import ServedUsage
from keep_protocol.states import ServedOutcome


class CallRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that is over; it began, or began to wait, `at` (RFC 3339 in UTC)."""

    at: str
    function: str
    """Cut, if it is very long."""
    outcome: ServedOutcome
    usage: ServedUsage | None = None
    """None of one that never came to the guest."""
    code: str | None = None
    """Of the problem that the client was told."""
    trap: str | None = None
    message: str | None = None


class CallList(msgspec.Struct, frozen=True):
    """The newest calls, in the order of their ends."""

    calls: tuple[CallRecord, ...]


class RequestRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An HTTP request to the workload that is over; it began, or began to wait, `at` (RFC 3339 in UTC)."""

    at: str
    method: str
    path: str
    """The workload's part of it, without the query; cut, if it is very long."""
    outcome: ServedOutcome
    status: int | None = None
    """Of the workload's response, if it began one."""
    usage: ServedUsage | None = None
    code: str | None = None
    trap: str | None = None
    message: str | None = None


class RequestList(msgspec.Struct, frozen=True):
    """The newest HTTP requests to the workload, in the order of their ends."""

    requests: tuple[RequestRecord, ...]
