"""What happened: pages by cursor, or a stream of server-sent events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from starlette.responses import Response, StreamingResponse

from keep_manager.route import JSON_MEDIA_TYPE, SEEING, Call, Route, json_response
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.manager_api import Event, EventList

SSE_MEDIA_TYPE = "text/event-stream"
_CURSOR = re.compile(r"[0-9]{0,19}", re.ASCII)
PING = 15.0
"""Seconds of silence after which a comment shows that the stream lives."""


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to go on, and how many events at most."""

    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


async def list_events(call: Call) -> Response:
    """A page, or with `Accept: text/event-stream` the events as they happen; tenants get those of their keeps."""
    owner = None if call.caller.sees_everything else call.caller.id
    events = call.context.events
    cursor = _last_event_id(call)
    if SSE_MEDIA_TYPE in call.headers.get("accept", ""):
        events.check(cursor)
        stream = events.follow(cursor, owner, PING)
        return StreamingResponse(_frames(stream), media_type=SSE_MEDIA_TYPE, headers={"cache-control": "no-store"})
    page = tuple(events.page(call.query.cursor, call.query.limit, owner))
    return json_response(EventList(page, next=page[-1].cursor if page else call.query.cursor))


def _last_event_id(call: Call) -> int:
    """A client that comes back says in `Last-Event-ID` what it saw last; WHATWG HTML, 9.2.4."""
    given = call.headers.get("last-event-id", "")
    if not given:
        return int(call.query.cursor)
    if _CURSOR.fullmatch(given) is None:
        raise RefusalError(ErrorCode.CURSOR_INVALID, f"{given[:40]!r} is no cursor", field="Last-Event-ID")
    return int(given)


async def _frames(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    # At once: a client waits for the head of the answer, which leaves with the first bytes.
    yield b": wasmkeep events\n\n"
    async for event in events:
        if event is None:
            yield b": ping\n\n"
        else:
            data = msgspec.json.encode(event)
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.cursor, event.kind.encode(), data)


ROUTES = (
    Route(
        "GET",
        "/v1/events",
        SEEING,
        list_events,
        "Events in order: a page behind a cursor, or a stream",
        query=EventsQuery,
        headers={"Last-Event-ID": _CURSOR.pattern},
        response=EventList,
        media_types=(JSON_MEDIA_TYPE, SSE_MEDIA_TYPE),
    ),
)
