"""The route table: who may do what, that nothing is open, and that it is what the API's description says."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from app_loader import openapi
from app_loader.errors import RouteTableError
from app_loader.keep import Keep
from app_loader.messages import Request, Response
from app_loader.route import Route
from app_loader.routes import HTTP_METHODS, ROUTES
from keep_protocol.digests import content_digest
from keep_protocol.states import FileArea, KeepRole
from tests.unit.app_loader.asking import ask, problem, request

ROOT = Path(__file__).resolve().parents[3]

_OWNER, _DATA, _RESULT, _CALLER, _AUDITOR = (
    KeepRole.OWNER,
    KeepRole.DATA_PROVIDER,
    KeepRole.RESULT_CONSUMER,
    KeepRole.CALLER,
    KeepRole.AUDITOR,
)

MATRIX = {
    "POST /v1/attestation": set(KeepRole),
    "GET /v1/status": {_OWNER, _DATA, _RESULT, _CALLER, _AUDITOR},
    "GET /v1/openapi.json": {_OWNER, _DATA, _RESULT, _CALLER, _AUDITOR},
    "GET /v1/workload": {_OWNER, _DATA, _RESULT, _CALLER, _AUDITOR},
    "PUT /v1/workload": {_OWNER},
    "DELETE /v1/workload": {_OWNER},
    "GET /v1/configuration": set(KeepRole),
    "PUT /v1/configuration": {_OWNER},
    "DELETE /v1/configuration": {_OWNER},
    "POST /v1/runs": {_OWNER, _CALLER},
    "POST /v1/call/{function}": {_OWNER, _CALLER},
    "GET /v1/calls": {_OWNER, _CALLER, _RESULT, _AUDITOR},
    "GET /v1/http-log": {_OWNER},
    "GET /v1/http-requests": {_OWNER, _AUDITOR},
    **{f"{method} /v1/http/{{path}}": {_OWNER, _CALLER} for method in HTTP_METHODS},
    "GET /v1/runs": {_OWNER, _CALLER, _RESULT, _AUDITOR},
    "GET /v1/runs/{run}": {_OWNER, _CALLER, _RESULT, _AUDITOR},
    "GET /v1/runs/{run}/stdout": {_OWNER, _CALLER, _RESULT},
    "GET /v1/runs/{run}/stderr": {_OWNER, _CALLER, _RESULT},
    "PUT /v1/runs/{run}/stdin": {_OWNER, _CALLER},
    "POST /v1/runs/{run}/stop": {_OWNER, _CALLER},
    "GET /v1/secrets": {_OWNER, _DATA},
    "PUT /v1/secrets/{secret}": {_OWNER, _DATA},
    "DELETE /v1/secrets/{secret}": {_OWNER, _DATA},
    "GET /v1/events": {_OWNER, _AUDITOR},
    "POST /v1/egress/explain": {_OWNER, _AUDITOR},
    "POST /v1/seal": {_OWNER},
    "POST /v1/unseal": {_OWNER},
    "PUT /v1/files/input/{path}": {_OWNER, _DATA},
    "GET /v1/files/input/{path}": {_OWNER, _DATA},
    "DELETE /v1/files/input/{path}": {_OWNER, _DATA},
    "PUT /v1/files/output/{path}": {_OWNER},
    "GET /v1/files/output/{path}": {_OWNER, _RESULT},
    "DELETE /v1/files/output/{path}": {_OWNER},
    "PUT /v1/files/data/{path}": {_OWNER},
    "GET /v1/files/data/{path}": {_OWNER},
    "DELETE /v1/files/data/{path}": {_OWNER},
    "PUT /v1/files/sealed/{path}": {_OWNER, _DATA, _RESULT},
    "GET /v1/files/sealed/{path}": {_OWNER, _DATA, _RESULT},
    "DELETE /v1/files/sealed/{path}": {_OWNER},
}


async def reached(keep: Keep, request: Request) -> Response:
    return Response(HTTPStatus.OK, b"reached")


def example(route: Route) -> str:
    return route.path.replace("{run}", "r1").replace("{path}", "folder/file")


def watched(route: Route) -> Route:
    """The same route, but nothing happens behind it."""
    return Route(route.method, route.path, route.roles, reached, route.summary, answers=route.answers, area=route.area)


WATCHED = tuple(watched(route) for route in ROUTES)


def test_the_table_is_what_was_agreed() -> None:
    assert {f"{route.method} {route.path}": set(route.roles) for route in ROUTES} == MATRIX


@pytest.mark.parametrize("role", KeepRole)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_role_gets_in_exactly_where_the_table_says(route: Route, role: KeepRole) -> None:
    response = ask(request(route.method, example(route), roles=[role]), routes=WATCHED)
    if role in MATRIX[f"{route.method} {route.path}"]:
        assert response.body == b"reached"
    else:
        assert problem(response).code == "forbidden"


def test_no_route_is_open() -> None:
    assert all(route.roles for route in ROUTES)
    with pytest.raises(RouteTableError):
        Route("GET", "/v1/open", frozenset(), reached, "open to all", answers={})


def test_no_two_routes_are_the_same() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_area_has_its_routes() -> None:
    assert {route.area for route in ROUTES if route.area} == set(FileArea)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/status/",
        "/v1/runs/",
        "/v1/runs/a/b",
        "/V1/status",
        "/v1/files",
        "/v1/files/other/f",
        "",
    ],
)
def test_other_paths_lead_nowhere(path: str) -> None:
    if path == "/v1/runs/":  # a run with an empty id
        assert ask(request("GET", path), routes=WATCHED).body == b"reached"
    else:
        assert problem(ask(request("GET", path), routes=WATCHED)).code == "route-not-found"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/files/data", ""),
        ("/v1/files/data/", ""),
        ("/v1/files/data/a/b", "a/b"),
        ("/v1/files/data/a/", "a/"),
        ("/v1/files/data/%61%20b", "a b"),
        ("/v1/files/data/%FF", "\udcff"),
        ("/v1/files/data//a", "/a"),
        ("/v1/files/data/%2e%2e/a", "../a"),
    ],
)
def test_the_path_of_a_file_is_all_that_follows_its_area(path: str, found: str) -> None:
    (route,) = (route for route in ROUTES if route.method == "GET" and route.area is FileArea.DATA)
    assert route.match(tuple(path.encode().split(b"/")[1:])) == {"area": "data", "path": found}


def test_an_escaped_slash_is_no_separator() -> None:
    refusal = problem(ask(request("GET", "/v1/files/data/a%2Fb"), routes=WATCHED))
    assert refusal.code == "file-path-invalid"


class TestDescription:
    def test_the_checked_in_description_is_that_of_the_table(self) -> None:
        assert openapi.FILE.read_bytes() == openapi.document(), "run `python -m app_loader.openapi`"

    def test_it_describes_every_route_and_no_other(self) -> None:
        document = json.loads(openapi.document())
        described = {
            f"{method.upper()} {path}": {KeepRole(role) for role in operation["x-roles"]}
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        }
        assert described == MATRIX

    def test_every_reference_in_it_leads_somewhere(self) -> None:
        document = json.loads(openapi.document())
        schemas = document["components"]["schemas"]
        assert _references(document) <= {f"#/components/schemas/{name}" for name in schemas}

    def test_it_says_which_values_parameters_have(self) -> None:
        paths = json.loads(openapi.document())["paths"]
        output = {each["name"]: each["schema"] for each in paths["/v1/runs/{run}/stdout"]["get"]["parameters"]}
        assert output["follow"]["enum"] == [0, 1]
        assert output["offset"] == {"type": "integer", "minimum": 0, "maximum": 10**16 - 1}
        (digest,) = (each for each in paths["/v1/workload"]["put"]["parameters"] if each["name"] == "Content-Digest")
        assert re.search(digest["schema"]["pattern"], content_digest(bytes(32)))
        assert not re.search(digest["schema"]["pattern"], "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")

    def test_it_names_the_headers_of_answers(self) -> None:
        paths = json.loads(openapi.document())["paths"]
        started = paths["/v1/runs"]["post"]["responses"]
        assert started["200"]["headers"].keys() == started["202"]["headers"].keys() == {"Location"}
        assert paths["/v1/runs/{run}/stderr"]["get"]["responses"]["200"]["headers"].keys() == {"Wasmkeep-Offset"}

    def test_the_keep_serves_it(self) -> None:
        response = ask(request("GET", "/v1/openapi.json", roles=[KeepRole.AUDITOR]))
        assert response.body == openapi.document()


def _references(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(_references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()
