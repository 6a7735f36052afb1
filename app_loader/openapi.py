"""The keep's OpenAPI 3.1 document, made from the route table; `python -m app_loader.openapi` writes docs/keep-api.json.

Imported only where somebody asks for it: making schemas costs more than all the rest of a keep's start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from app_loader.messages import JSON_MEDIA_TYPE
from app_loader.route import Content, Deferred, Route
from app_loader.routes import ROUTES
from keep_protocol import __version__
from keep_protocol.descriptions import cleaned
from keep_protocol.errors import PROBLEM_MEDIA_TYPE, Problem

FILE = Path(__file__).resolve().parents[1] / "docs" / "keep-api.json"

_SECURITY = "clientCertificate"
_DESCRIPTIONS = {
    "run": "a run's id",
    "function": "an exported function's name, or `INTERFACE#FUNCTION`, percent-encoded",
    "secret": "a secret's name",
    "path": "a path below the area; each `/` in it separates folders, and none is escaped",
}


def document(routes: Sequence[Route] = ROUTES) -> bytes:
    """The document as JSON, with sorted keys."""
    types = {content for route in routes for content in _contents(route) if isinstance(content, type)} | {Problem}
    ordered = sorted(types, key=lambda each: each.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    api = {
        "openapi": "3.1.0",
        "info": {
            "title": "wasmkeep keep",
            "version": __version__,
            "description": "What a keep does for the principals of its spec, over mutual TLS 1.3.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{_SECURITY: []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                _SECURITY: {"type": "mutualTLS", "description": "a certificate that the keep's spec lets in"}
            },
        },
    }
    return json.dumps(cleaned(api), indent=2, sort_keys=True).encode() + b"\n"


def _contents(route: Route) -> list[type | str | None]:
    contents = (route.body, *(content for contents in route.answers.values() for content in contents))
    return [_loaded(content) for content in contents]


def _loaded(content: Content) -> type | str | None:
    loaded: type | str | None = content.load() if isinstance(content, Deferred) else content
    return loaded


def _operation(route: Route, references: dict[type, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "x-roles": sorted(route.roles),
        "parameters": _parameters(route),
        "responses": {str(status.value): _answer(route, status, references) for status in route.answers}
        | {
            "default": {
                "description": "A refusal or a failure: RFC 9457, with a `code`",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": references[Problem]}},
            }
        },
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": _content((route.body, *route.other_bodies), references),
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _DESCRIPTIONS[name],
            "schema": {"type": "string"},
        }
        for name in route.parameter_names
    ]
    in_query = [
        {"name": name, "in": "query", "description": parameter.meaning, "schema": parameter.schema}
        for name, parameter in route.query.items()
    ]
    in_headers = [
        {"name": name, "in": "header", "description": parameter.meaning, "schema": parameter.schema}
        for name, parameter in route.headers.items()
    ]
    return [*in_path, *in_query, *in_headers]


def _answer(route: Route, status: HTTPStatus, references: dict[type, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": status.phrase}
    if route.sends:
        answer["headers"] = {
            name: {"description": meaning, "required": True, "schema": {"type": "string"}}
            for name, meaning in route.sends.items()
        }
    if contents := route.answers[status]:
        answer["content"] = _content(contents, references)
    return answer


def _content(contents: Sequence[Content], references: dict[type, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for content in map(_loaded, contents):
        if isinstance(content, type):
            described[JSON_MEDIA_TYPE] = {"schema": references[content]}
        elif content == JSON_MEDIA_TYPE:
            described[content] = {"schema": {"type": "object"}}
        elif content is not None:
            # OpenAPI 3.1, section 4.8.14.3: raw bytes are described by their media type alone.
            described[content] = {}
    return described


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(document())
