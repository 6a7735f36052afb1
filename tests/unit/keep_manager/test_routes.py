"""Who may call which route, and what becomes of requests that nobody should send."""

from __future__ import annotations

import base64
import json
import logging
import re

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.routing import Route as StarletteRoute

from keep_manager.app import create_app
from keep_manager.openapi import CHECKED_IN, document, document_bytes
from keep_manager.pki import load_certificate
from keep_manager.route import SEEING, Route
from keep_manager.routes import ROUTES
from keep_protocol.errors import PROBLEM_MEDIA_TYPE
from keep_protocol.names import NAME_PATTERN, is_keep_name
from keep_protocol.spec import Principal
from keep_protocol.states import CrlPolicy, KeepRole, ManagerRole
from tests.bad_bodies import MALFORMED, BadBody, bad_keeps
from tests.unit.keep_manager.running import Client, Running, keep_body, make_client, make_home, operator_of


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE, answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"urn:wasmkeep:problem:{problem['code']}"
    assert problem["detail"]
    return answer.status_code, problem["code"]


def call(client: httpx.Client, route: Route, ref: str) -> httpx.Response:
    body = keep_body() if route.request is not None else None
    return client.request(route.method, route.path.replace("{ref}", ref), json=body)


def principal_of(served: Running, client: Client) -> Principal:
    """The client by id below this home's client CA."""
    ca = load_certificate(served.home.pki / "client-ca.pem").public_bytes(Encoding.DER)
    encoded = base64.b64encode(ca).decode()
    return Principal((KeepRole.OWNER,), ca=encoded, spiffe_id=client.id, crl=CrlPolicy.NONE)


def test_every_route_names_its_roles() -> None:
    assert ROUTES
    for route in ROUTES:
        assert route.roles, route.path
        assert route.roles <= set(ManagerRole)
        if route.method != "GET":
            assert ManagerRole.AUDITOR not in route.roles, f"{route.method} {route.path}: auditors only read"


def test_the_application_has_no_route_beside_the_table(manager: Running) -> None:
    app = create_app(manager.manager.context)
    served = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, StarletteRoute)
        for method in route.methods or ()
    }
    assert served == {(route.method, route.path) for route in ROUTES}
    assert len(app.routes) == len(ROUTES)


@pytest.mark.parametrize("role", [*ManagerRole, None])
def test_a_route_answers_its_roles_and_no_others(manager: Running, role: ManagerRole | None) -> None:
    person = make_client(manager.home, "somebody", (role,) if role else ())
    client = manager.client(person)
    for route in ROUTES:
        answer = call(client, route, "nothing")
        if role in route.roles:
            assert answer.status_code != 403, f"{route.method} {route.path}: {answer.text}"
        else:
            assert problem_of(answer) == (403, "forbidden"), f"{route.method} {route.path}"


def test_a_refused_request_is_an_event_and_many_are_a_few(manager: Running) -> None:
    stranger = manager.client(make_client(manager.home, "stranger"))
    for _ in range(30):
        assert problem_of(stranger.get("/v1/keeps")) == (403, "forbidden")
    events = manager.client().get("/v1/events").json()["events"]
    denied = [event for event in events if event["kind"] == "request-denied"]
    assert 1 <= len(denied) <= 10
    assert denied[0]["actor"] == "spiffe://test.internal/user/stranger"
    assert denied[0]["detail"]["route"] == "GET /v1/keeps"


def test_a_tenant_cannot_tell_that_anothers_keep_exists(manager: Running) -> None:
    alice = manager.client(make_client(manager.home, "alice", (ManagerRole.TENANT,)))
    bob = manager.client(make_client(manager.home, "bob", (ManagerRole.TENANT,)))
    keep = alice.post("/v1/keeps", json=keep_body("one")).json()
    assert bob.get("/v1/keeps").json()["keeps"] == []
    for route in ROUTES:
        if "{ref}" in route.path:
            for ref in (keep["id"], "one"):
                assert problem_of(call(bob, route, ref)) == (404, "keep-not-found"), route.path
    assert [event["owner"] for event in bob.get("/v1/events").json()["events"]] == []
    assert bob.post("/v1/keeps", json=keep_body("one")).status_code == 201  # names are the owner's own
    assert alice.get("/v1/keeps/one").json()["keep"]["id"] == keep["id"]


def test_an_auditor_sees_everything_and_changes_nothing(manager: Running) -> None:
    auditor = manager.client(make_client(manager.home, "eve", (ManagerRole.AUDITOR,)))
    manager.client().post("/v1/keeps", json=keep_body("one"))
    assert [keep["name"] for keep in auditor.get("/v1/keeps").json()["keeps"]] == ["one"]
    assert auditor.get("/v1/keeps/one/logs").status_code == 200
    assert problem_of(auditor.delete("/v1/keeps/one")) == (403, "forbidden")


def test_somebody_with_both_roles_still_changes_own_keeps_only(manager: Running) -> None:
    both = manager.client(make_client(manager.home, "eve", (ManagerRole.AUDITOR, ManagerRole.TENANT)))
    manager.client().post("/v1/keeps", json=keep_body("one"))
    assert both.get("/v1/keeps/one").status_code == 200
    assert problem_of(both.delete("/v1/keeps/one")) == (403, "forbidden")


def test_the_record_is_for_principals_of_the_spec_too(manager: Running) -> None:
    named, pinned, other = (make_client(manager.home, name) for name in ("named", "pinned", "other"))
    certificate = base64.b64encode(pinned.der).decode()
    body = keep_body("one", principal_of(manager, named), Principal((KeepRole.CALLER,), certificate=certificate))
    keep = manager.client().post("/v1/keeps", json=body).json()
    for person in (named, pinned):
        client = manager.client(person)
        assert client.get(f"/v1/keeps/{keep['id']}/record").json()["endpoint"] == keep["endpoint"]
        assert problem_of(client.get(f"/v1/keeps/{keep['id']}")) == (403, "forbidden")
    assert problem_of(manager.client(other).get(f"/v1/keeps/{keep['id']}/record")) == (403, "forbidden")


def test_a_principal_of_the_same_name_under_another_ca_is_somebody_else(manager: Running) -> None:
    alice = make_client(manager.home, "alice")
    stranger = make_home(manager.home.path / "other")
    ca = base64.b64encode(load_certificate(stranger.pki / "client-ca.pem").public_bytes(Encoding.DER)).decode()
    principal = Principal((KeepRole.OWNER,), ca=ca, spiffe_id=alice.id, crl=CrlPolicy.NONE)
    keep = manager.client().post("/v1/keeps", json=keep_body("one", principal)).json()
    assert problem_of(manager.client(alice).get(f"/v1/keeps/{keep['id']}/record")) == (403, "forbidden")


def refuse(client: httpx.Client, bad: BadBody) -> None:
    headers = {"content-type": bad.media_type} if bad.media_type else {}
    answer = client.post("/v1/keeps", content=bad.body, headers=headers)
    assert problem_of(answer) == (bad.status, bad.code), f"{bad.name}: {answer.text}"
    if bad.field is not None:
        assert answer.json()["field"] == bad.field, bad.name


def test_malformed_bodies_are_refused_with_the_reason(manager: Running) -> None:
    client = manager.client()
    for bad in MALFORMED:
        refuse(client, bad)
    assert client.get("/v1/keeps").json()["keeps"] == []


def test_a_keep_that_is_wrong_in_one_place_is_refused_with_that_place(manager: Running) -> None:
    client = manager.client()
    for bad in bad_keeps(keep_body("good")):
        refuse(client, bad)
    assert client.get("/v1/keeps").json()["keeps"] == []
    assert client.get("/v1/events").json()["events"] == []


def test_a_name_is_the_owners_once(manager: Running) -> None:
    client = manager.client()
    assert client.post("/v1/keeps", json=keep_body("one")).status_code == 201
    assert problem_of(client.post("/v1/keeps", json=keep_body("one"))) == (409, "name-taken")


def test_a_body_of_a_hundred_megabytes_is_refused_without_being_read(manager: Running) -> None:
    sent = 0

    def chunks() -> object:
        nonlocal sent
        for _ in range(1600):
            sent += 65536
            yield b"x" * 65536

    headers = {"content-type": "application/json", "content-length": str(1600 * 65536)}
    answer = manager.client().post("/v1/keeps", content=chunks(), headers=headers)  # type: ignore[arg-type]
    assert problem_of(answer) == (413, "body-too-large")
    assert sent < 1600 * 65536


def test_a_chunked_body_is_refused_where_it_passes_the_limit(manager: Running) -> None:
    answer = manager.client().post(
        "/v1/keeps", content=iter([b"x" * 65536] * 1600), headers={"content-type": "application/json"}
    )
    assert problem_of(answer) == (413, "body-too-large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "route-not-found"),
        ("GET", "/docs", 404, "route-not-found"),
        ("GET", "/openapi.json", 404, "route-not-found"),
        ("GET", "/v1/keeps/", 404, "route-not-found"),
        ("GET", "/v1/keeps/../../etc/passwd", 404, "route-not-found"),
        ("GET", "/v1/keeps/%2e%2e%2fx/logs", 404, "route-not-found"),
        ("GET", "/v1/keeps/" + "a" * 3000, 404, "keep-not-found"),
        ("GET", "/v1/keeps/%00", 404, "keep-not-found"),
        ("GET", "/v1/keeps/0123456789abcdef", 404, "keep-not-found"),
        ("PUT", "/v1/keeps", 405, "method-not-allowed"),
        ("HEAD", "/v1/keeps", 405, None),
        ("PATCH", "/v1/keeps/one", 405, "method-not-allowed"),
        ("GET", "/v1/keeps?x=1", 422, "field-invalid"),
        ("GET", "/v1/events?limit=0", 422, "field-invalid"),
        ("GET", "/v1/events?limit=x", 422, "field-invalid"),
        ("GET", "/v1/events?limit=1&limit=2", 422, "field-invalid"),
        ("GET", "/v1/events?cursor=-1", 422, "field-invalid"),
        ("GET", "/v1/events?cursor=7", 422, "cursor-invalid"),
        ("GET", "/v1/events?cursor=99999999999999999999", 422, "field-invalid"),
    ],
)
def test_paths_and_parameters_that_do_not_exist_are_problems(
    manager: Running, method: str, path: str, status: int, code: str | None
) -> None:
    answer = manager.client().request(method, path)
    assert answer.status_code == status
    if code is not None:
        assert problem_of(answer) == (status, code)


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/keeps", "GET, POST"), ("/v1/keeps/one", "DELETE, GET"), ("/v1/keeps/one/stop", "POST")]
)
def test_another_method_gets_all_those_that_the_path_has(manager: Running, path: str, allowed: str) -> None:
    answer = manager.client().request("X" * 1000, path)
    assert problem_of(answer) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed
    assert len(answer.content) < 500


def test_a_path_in_the_log_cannot_forge_lines_or_steer_terminals(
    manager: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "keep_manager.app"):
        manager.client().get("/v1/keeps/%1b%5b2J%0a%c2%9b")
    (record,) = caplog.records
    assert "GET /v1/keeps/%1b%5b2J%0a%c2%9b by spiffe://" in record.getMessage()


def test_answers_say_nothing_of_the_server_and_carry_a_request_id(manager: Running) -> None:
    answer = manager.client().get("/v1/health")
    assert "server" not in answer.headers
    assert len(answer.headers["x-request-id"]) == 16
    health = answer.json()
    assert (health["status"], health["you"], health["roles"]) == ("ok", operator_of(manager.home).id, ["operator"])


def test_metrics_count_keeps_by_state_and_requests(manager: Running) -> None:
    client = manager.client()
    client.post("/v1/keeps", json=keep_body("one"))
    text = client.get("/metrics").text
    assert 'wasmkeep_keeps{state="ready"} 1' in text
    assert 'wasmkeep_requests_total{route="POST /v1/keeps",status="201"} 1' in text
    assert "wasmkeep_events_total 2" in text


def test_backends_say_what_holds_here(manager: Running) -> None:
    found = manager.client().get("/v1/backends").json()
    backend, *others = found["backends"]
    checks = {check["name"]: check["passed"] for check in backend["checks"]}
    assert (backend["name"], backend["available"]) == ("process", True)
    assert checks["wasmtime"]
    assert checks["python"]
    assert checks["supervisor"]
    assert [other["name"] for other in others] == ["qemu", "qemu+vtpm", "snp", "tdx", "nitro", "sgx"]
    lacking = [other for other in others if not other["available"]]
    assert {"nitro", "sgx"} <= {other["name"] for other in lacking}
    assert all(any(check["message"] for check in other["checks"]) for other in lacking)
    assert {attester["kind"]: attester["available"] for attester in found["attesters"]}["simulated"]


@pytest.mark.parametrize(("backend", "evidence"), [("snp", "snp"), ("tdx", "tdx"), ("sgx", "sgx"), ("nitro", "nitro")])
def test_a_tee_keep_that_names_the_hosts_own_ca_is_refused(manager: Running, backend: str, evidence: str) -> None:
    body = keep_body("one", principal_of(manager, make_client(manager.home, "alice")))
    body["spec"].update(backend=backend, evidence=evidence)
    answer = manager.client().post("/v1/keeps", json=body)
    assert problem_of(answer) == (422, "spec-invalid")
    assert answer.json()["field"] == "spec.principals[0].ca"


def test_the_ca_of_the_managers_own_certificate_is_the_hosts_too(manager: Running) -> None:
    principal = principal_of(manager, make_client(manager.home, "alice"))
    server_ca = load_certificate(manager.home.pki / "server-ca.pem").public_bytes(Encoding.DER)
    body = keep_body("one", msgspec.structs.replace(principal, ca=base64.b64encode(server_ca).decode()))
    body["spec"].update(backend="snp", evidence="snp")
    answer = manager.client().post("/v1/keeps", json=body)
    assert problem_of(answer) == (422, "spec-invalid")
    assert "this host's own" in answer.json()["detail"]


def test_a_tee_keep_of_a_foreign_ca_gets_past_that_and_is_refused_for_lack_of_hardware(manager: Running) -> None:
    body = keep_body("one")
    body["spec"].update(backend="snp", evidence="snp")
    answer = manager.client().post("/v1/keeps", json=body)
    assert problem_of(answer) == (422, "backend-unavailable")
    assert answer.json()["field"] == "spec.backend"


@pytest.mark.parametrize(
    ("backend", "evidence"), [("process", "snp"), ("process", "nitro"), ("snp", None), ("tdx", "snp"), ("nitro", "tpm")]
)
def test_evidence_that_a_backend_cannot_have_is_refused(manager: Running, backend: str, evidence: str | None) -> None:
    body = keep_body("one")
    body["spec"].update(backend=backend, evidence=evidence)
    answer = manager.client().post("/v1/keeps", json=body)
    assert problem_of(answer) == (422, "spec-invalid")
    assert "`evidence` of a" in answer.json()["detail"]


def test_tpm_evidence_is_refused_where_there_is_no_tpm(manager: Running) -> None:
    body = keep_body("one")
    body["spec"].update(evidence="tpm")
    answer = manager.client().post("/v1/keeps", json=body)
    assert problem_of(answer) == (422, "backend-unavailable")
    assert answer.json()["field"] == "spec.evidence"


def test_the_served_document_is_the_checked_in_one_and_covers_the_table(manager: Running) -> None:
    served = manager.client().get("/v1/openapi.json")
    assert served.content == document_bytes()
    assert CHECKED_IN.read_bytes() == document_bytes(), "run `python -m keep_manager.openapi`"
    operations = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert operations == {(route.method, route.path) for route in ROUTES}


def test_the_document_refers_to_nothing_that_it_does_not_hold() -> None:
    made = document()
    text = json.dumps(made)
    references = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= made["components"]["schemas"].keys()
    identifiers = [operation["operationId"] for item in made["paths"].values() for operation in item.values()]
    assert len(identifiers) == len(set(identifiers))


def test_headers_that_the_document_promises_are_sent(manager: Running) -> None:
    answer = manager.client().post("/v1/keeps", json=keep_body("one"))
    described = document()["paths"]["/v1/keeps"]["post"]["responses"]["201"]["headers"]
    assert described.keys() == {"Location", "X-Request-Id"}
    assert all(answer.headers[name] for name in described)


@pytest.mark.parametrize(
    "name", ["a", "a" * 63, "a" * 64, "a.b", "a..b", "-a", "a-", "0123456789abcdef", "0123456789abcdef0", "a b", ""]
)
def test_the_document_describes_names_as_they_are_checked(name: str) -> None:
    assert bool(re.search(NAME_PATTERN, name)) == is_keep_name(name)


def test_the_document_says_what_a_principal_is_and_that_one_is_owner() -> None:
    principals = document()["components"]["schemas"]["KeepSpec"]["properties"]["principals"]
    assert [kind["required"] for kind in principals["items"]["oneOf"]] == [
        ["certificate"],
        ["ca", "spiffe_id", "crl"],
    ]
    assert principals["contains"]["properties"]["roles"] == {"contains": {"const": "owner"}}


def test_seeing_roles_are_all_roles() -> None:
    assert set(ManagerRole) == SEEING
