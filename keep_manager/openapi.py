"""The OpenAPI document, made from the table of routes; `python -m keep_manager.openapi` writes it to docs/."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from keep_manager.route import Route
from keep_manager.routes import ROUTES
from keep_protocol import __version__
from keep_protocol.descriptions import cleaned
from keep_protocol.errors import PROBLEM_MEDIA_TYPE, Problem

CHECKED_IN = Path(__file__).parent.parent / "docs" / "manager-api.json"

_PARAMETER = re.compile(r"\{(\w+)\}")
_ALWAYS_SENT = {"X-Request-Id": "under which the manager's log has this request"}


def document(routes: tuple[Route, ...] = ROUTES) -> dict[str, Any]:
    """OpenAPI 3.1 for these routes."""
    types = [Problem, *(kind for route in routes for kind in (route.request, route.response) if kind is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    references = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "keep-manager", "version": __version__},
        "security": [{"mutualTLS": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"mutualTLS": {"type": "mutualTLS"}}},
    }


@cache
def document_bytes() -> bytes:
    """The document of all routes as JSON, readable."""
    return msgspec.json.format(msgspec.json.encode(cleaned(document())), indent=1) + b"\n"


def _operation(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    roles = [*sorted(route.roles), *(["principal of the keep"] if route.principals else [])]
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "description": f"{(route.handler.__doc__ or '').strip()}\n\nRoles: {', '.join(roles)}.",
        "responses": {
            str(route.status.value): _answer(route, references),
            "default": {
                "description": "A problem, RFC 9457",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": references[Problem]}},
            },
        },
    }
    if parameters := [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": references[route.request]}},
        }
    return operation


def _answer(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.status.phrase}
    json_schema = references[route.response] if route.response is not None else {}
    answer["headers"] = {
        name: {"description": meaning, "required": True, "schema": {"type": "string"}}
        for name, meaning in {**route.sends, **_ALWAYS_SENT}.items()
    }
    if route.media_types:
        answer["content"] = {
            kind: {"schema": json_schema if kind == "application/json" else {"type": "string"}}
            for kind in route.media_types
        }
    return answer


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    properties = msgspec.json.schema(route.query)["$defs"][route.query.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string", "pattern": f"^{pattern}$"}}
        for name, pattern in route.headers.items()
    ]


if __name__ == "__main__":
    CHECKED_IN.write_bytes(document_bytes())
