"""The routes of the manager's API as calls."""

from __future__ import annotations

import secrets
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec

from keep_client.addresses import segment
from keep_client.calls import (
    Call,
    Head,
    Request,
    StreamCall,
    expect_json,
    expect_nothing,
    expect_text,
)
from keep_client.errors import InvalidArgumentError, ProtocolError, SpecMismatchError
from keep_protocol.manager_api import (
    BackendList,
    CreateKeep,
    EventList,
    Health,
    Keep,
    KeepDetail,
    KeepList,
    KeepRecord,
)
from keep_protocol.spec import KeepSpec, canonical, spec_digest

CHANGE_TIMEOUT = 300.0
"""Seconds that a manager may take to start, stop or wipe a keep; machines without KVM start slowly."""

EVENT_TIMEOUT = 60.0
"""Seconds of silence on an event stream; a manager pings more often."""

Change = Literal["start", "stop", "restart"]


def health() -> Call[Health]:
    """`GET /v1/health`"""
    return Call(_get("/v1/health"), expect_json(Health))


def backends() -> Call[BackendList]:
    """`GET /v1/backends`"""
    return Call(_get("/v1/backends"), expect_json(BackendList))


def create_keep(spec: KeepSpec, name: str | None, idempotency_key: str | None) -> Call[Keep]:
    """`POST /v1/keeps`; the answer must be about exactly this spec."""
    expected = spec_digest(canonical(spec))
    decode = expect_json(Keep)

    def check(head: Head, body: bytes) -> Keep:
        keep = decode(head, body)
        if keep.spec_digest != expected:
            raise SpecMismatchError(
                f"keep {keep.id} was made from the spec {keep.spec_digest!a}, expected {expected}: do not use it"
            )
        return keep

    request = Request(
        "POST",
        "/v1/keeps",
        headers={
            "content-type": "application/json",
            # With it the manager answers a repeated request with the keep that the first one made.
            "idempotency-key": idempotency_key or secrets.token_hex(16),
        },
        body=msgspec.json.encode(CreateKeep(spec=spec, name=name)),
        read_timeout=CHANGE_TIMEOUT,
        repeatable=True,
    )
    return Call(request, check)


def list_keeps() -> Call[KeepList]:
    """`GET /v1/keeps`"""
    return Call(_get("/v1/keeps"), expect_json(KeepList))


def get_keep(ref: str) -> Call[KeepDetail]:
    """`GET /v1/keeps/{id or name}`"""
    return Call(_get(_keep(ref)), expect_json(KeepDetail))


def get_record(ref: str) -> Call[KeepRecord]:
    """`GET /v1/keeps/{id or name}/record`"""
    return Call(_get(f"{_keep(ref)}/record"), expect_json(KeepRecord))


def change_keep(ref: str, change: Change) -> Call[Keep]:
    """`POST /v1/keeps/{id or name}/start|stop|restart`"""
    return Call(Request("POST", f"{_keep(ref)}/{change}", read_timeout=CHANGE_TIMEOUT), expect_json(Keep))


def remove_keep(ref: str) -> Call[None]:
    """`DELETE /v1/keeps/{id or name}`"""
    return Call(Request("DELETE", _keep(ref), read_timeout=CHANGE_TIMEOUT), expect_nothing)


def logs(ref: str, lines: int | None) -> Call[str]:
    """`GET /v1/keeps/{id or name}/logs`"""
    query = "" if lines is None else f"?lines={lines}"
    return Call(_get(f"{_keep(ref)}/logs{query}"), expect_text)


def list_events(cursor: int, limit: int | None) -> Call[EventList]:
    """`GET /v1/events` as a page: what happened after `cursor`."""
    query = {"cursor": cursor} | ({} if limit is None else {"limit": limit})
    return Call(_get(f"/v1/events?{urlencode(query)}"), expect_json(EventList))


def follow_events(cursor: int) -> StreamCall:
    """`GET /v1/events` as a stream: what happened after `cursor`, and everything that happens from now on."""
    request = Request(
        "GET",
        f"/v1/events?cursor={cursor}",
        headers={"accept": "text/event-stream", "last-event-id": str(cursor)},
        read_timeout=EVENT_TIMEOUT,
    )
    return StreamCall(request, _expect_event_stream)


def metrics() -> Call[str]:
    """`GET /metrics`, in the text format of Prometheus."""
    return Call(_get("/metrics"), expect_text)


def openapi() -> Call[dict[str, Any]]:
    """`GET /v1/openapi.json`"""
    return Call(_get("/v1/openapi.json"), expect_json(dict[str, Any]))


def _expect_event_stream(head: Head) -> None:
    if head.media_type != "text/event-stream":
        raise ProtocolError(f"expected an event stream, got {head.media_type!a}")


def _get(target: str) -> Request:
    return Request("GET", target, repeatable=True)


def _keep(ref: str) -> str:
    if "/" in ref:
        raise InvalidArgumentError(f"{ref!a} is no id and no name of a keep: these have no `/`")
    return f"/v1/keeps/{segment(ref)}"
