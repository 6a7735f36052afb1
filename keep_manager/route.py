"""A route as data: from it come the FastAPI route, the access check and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from keep_manager.caller import Caller
from keep_manager.context import ManagerContext
from keep_protocol.states import ManagerRole

JSON_MEDIA_TYPE = "application/json"

OPERATOR = frozenset({ManagerRole.OPERATOR})
MANAGING = frozenset({ManagerRole.OPERATOR, ManagerRole.TENANT})
SEEING = frozenset({ManagerRole.OPERATOR, ManagerRole.TENANT, ManagerRole.AUDITOR})
WATCHING = frozenset({ManagerRole.OPERATOR, ManagerRole.AUDITOR})


@dataclass(frozen=True, slots=True)
class Call:
    """One request whose sender may make it, decoded."""

    context: ManagerContext
    caller: Caller
    path: Mapping[str, str]
    headers: Mapping[str, str]
    query: Any
    """An object of the route's `query` type."""
    body: Any
    """An object of the route's `request` type."""
    digest: bytes
    """SHA-256 of the body's bytes."""


@dataclass(frozen=True, slots=True)
class Route:
    """Method and path, who may call, what goes in and what comes out."""

    method: str
    path: str
    roles: frozenset[ManagerRole]
    handler: Callable[[Call], Awaitable[Response]]
    summary: str
    request: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that have a meaning here, with the pattern of their values."""
    sends: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer that say something, and what."""
    response: type[msgspec.Struct] | None = None
    media_types: tuple[str, ...] = (JSON_MEDIA_TYPE,)
    status: HTTPStatus = HTTPStatus.OK
    principals: bool = False
    """Whether principals of a keep's spec may call too; the handler decides then."""


def json_response(
    content: msgspec.Struct | bytes, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON, from an object or from bytes that are JSON already."""
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Response(body, status, dict(headers or {}), media_type=JSON_MEDIA_TYPE)
