"""What nobody should send, sent to a real manager and a real keep; the unit tests show the rest over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keep_client.specs import new_spec, principal_of
from keep_protocol.spec import canonical
from keep_protocol.states import KeepRole
from tests.bad_bodies import MALFORMED, BadBody, bad_keeps
from tests.system.clients import (
    JSON,
    WASM,
    Identity,
    Server,
    code_of,
    endpoint_of,
    expired_operator,
    issue,
    manager_of,
    operator_of,
)
from tests.system.deployment import Deployment, eventually, example, guest

MiB = 1024 * 1024
LIMIT = MiB
QUOTA = ("--max-keeps", "1", "--max-memory", "1G", "--max-disk", "1G")


@pytest.fixture(scope="module")
def operator(deployment: Deployment) -> Identity:
    return operator_of(deployment.home)


@pytest.fixture(scope="module")
def manager(deployment: Deployment, operator: Identity) -> Iterator[httpx.Client]:
    with manager_of(deployment).http(operator) as client:
        yield client


@pytest.fixture(scope="module")
def keep(deployment: Deployment) -> Iterator[dict[str, Any]]:
    """A keep of the operator with small limits, for tests that leave it as it was."""
    created = deployment.create("--files", "1M", "--workload-limit", "1M")
    yield created
    deployment.keepctl("rm", created["id"])


@pytest.fixture(scope="module")
def inside(keep: dict[str, Any], operator: Identity) -> Iterator[httpx.Client]:
    with endpoint_of(keep).http(operator) as client:
        yield client


def refuse(client: httpx.Client, path: str, bad: BadBody) -> None:
    headers = {"content-type": bad.media_type} if bad.media_type else {}
    answer = client.post(path, content=bad.body, headers=headers)
    assert code_of(answer) == (bad.status, bad.code), f"{bad.name}: {answer.text}"
    if bad.field is not None:
        assert answer.json()["field"] == bad.field, bad.name


class TestManager:
    def test_bad_bodies_are_refused_and_make_no_keep(
        self, deployment: Deployment, manager: httpx.Client, operator: Identity
    ) -> None:
        authority = (deployment.home / "config" / "pki" / "client-ca.pem").read_text()
        owner = principal_of(operator.certificate.read_text(), [KeepRole.OWNER], client_ca=authority)
        spec = json.loads(canonical(new_spec(principals=[owner])))
        # The table makes a leaf certificate into a CA, so the owner has one here.
        leaf = ssl.PEM_cert_to_DER_cert(operator.certificate.read_text())
        spec["principals"] = [{"roles": ["owner"], "certificate": _base64(leaf)}]
        before = (deployment.keeps(), deployment.keep_mains())
        for bad in (*MALFORMED, *bad_keeps({"name": "good", "spec": spec})):
            refuse(manager, "/v1/keeps", bad)
        assert (deployment.keeps(), deployment.keep_mains()) == before

    @pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
    def test_a_hundred_megabytes_are_refused_before_they_are_sent(self, manager: httpx.Client, announced: bool) -> None:
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += MiB
                yield b" " * MiB

        headers = JSON | ({"content-length": str(100 * MiB)} if announced else {})
        assert code_of(manager.post("/v1/keeps", content=body(), headers=headers)) == (413, "body-too-large")
        assert sent < 50 * MiB

    @pytest.mark.parametrize("ref", ["nobody", "0123456789abcdef", "..", "%2e%2e%2f%2e%2e", "a%00b", "x" * 5000])
    def test_an_unknown_keep_is_not_found(self, manager: httpx.Client, ref: str) -> None:
        for method, act in (("POST", "/start"), ("GET", "/record"), ("GET", "/logs")):
            answer = manager.request(method, f"/v1/keeps/{ref}{act}")
            assert code_of(answer)[0] == 404, ref

    def test_what_does_not_fit_the_state_is_a_conflict(self, manager: httpx.Client, keep: dict[str, Any]) -> None:
        path = f"/v1/keeps/{keep['id']}"
        assert code_of(manager.post(f"{path}/start")) == (409, "keep-state-conflict")
        assert manager.post(f"{path}/stop").json()["state"] == "stopped"
        for act in ("stop", "restart"):
            assert code_of(manager.post(f"{path}/{act}")) == (409, "keep-state-conflict")
        assert code_of(manager.get(f"{path}/record")) == (409, "keep-state-conflict")
        started = manager.post(f"{path}/start").json()
        assert (started["state"], started["endpoint"]) == ("ready", keep["endpoint"])
        keep.update(started)

    def test_another_tenants_keep_does_not_exist(
        self, deployment: Deployment, keep: dict[str, Any], tmp_path: Path
    ) -> None:
        tenant = issue(deployment, tmp_path, "mallory", "--role", "tenant", *QUOTA)
        with manager_of(deployment).http(tenant) as client:
            assert client.get("/v1/keeps").json()["keeps"] == []
            for ref in (keep["id"], keep["name"]):
                for method, act in (("GET", ""), ("GET", "/logs"), ("POST", "/stop"), ("DELETE", "")):
                    assert code_of(client.request(method, f"/v1/keeps/{ref}{act}")) == (404, "keep-not-found")
        assert deployment.keep(keep["id"])["state"] == "ready"


class TestStrangers:
    @pytest.fixture(params=["manager", "keep"])
    def server(self, request: pytest.FixtureRequest, deployment: Deployment, keep: dict[str, Any]) -> Server:
        return manager_of(deployment) if request.param == "manager" else endpoint_of(deployment.keep(keep["id"]))

    def test_only_certificates_of_the_deployment_pass_the_handshake(
        self, server: Server, deployment: Deployment, operator: Identity, tmp_path: Path
    ) -> None:
        deployment.run("keep-manager", "init", "--home", str(tmp_path / "other"))
        stranger = operator_of(tmp_path / "other")
        assert server.refusal(server.context(None)) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert server.refusal(server.context(stranger)) == "TLSV1_ALERT_UNKNOWN_CA"
        expired = expired_operator(deployment, tmp_path)
        assert server.refusal(server.context(expired)) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
        assert server.refusal(server.context(operator)) is None

    def test_nothing_older_than_tls_1_3_is_spoken(self, server: Server, operator: Identity) -> None:
        old = server.context(operator)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert server.refusal(old) == "TLSV1_ALERT_PROTOCOL_VERSION"
        with server.connect() as connection:
            connection.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert b"HTTP/" not in connection.recv(65536)

    def test_a_revocation_reaches_a_keep_that_is_running(
        self, deployment: Deployment, keep: dict[str, Any], tmp_path: Path
    ) -> None:
        server = endpoint_of(deployment.keep(keep["id"]))
        nobody = issue(deployment, tmp_path, f"trudy-{deployment.supervisor}")
        with server.http(nobody) as client:
            assert code_of(client.get("/v1/status")) == (403, "identity-invalid")
        deployment.run("keep-manager", "revoke", f"trudy-{deployment.supervisor}", "--home", str(deployment.home))
        eventually(lambda: server.refusal(server.context(nobody)) == "SSLV3_ALERT_CERTIFICATE_REVOKED")


class TestKeep:
    def test_bad_bodies_start_no_run(self, inside: httpx.Client) -> None:
        for bad in MALFORMED:
            refuse(inside, "/v1/runs", bad)
        assert inside.get("/v1/runs").json() == {"runs": []}

    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b"", 422, "workload-invalid"),
            (b"hello, this is text", 422, "workload-invalid"),
            (b"(module)", 422, "workload-invalid"),
            (b"\x7fELF\x02\x01\x01\0" + bytes(100), 422, "workload-invalid"),
            (b"\0asm\1\0\0\0" + b"\xff" * 100, 422, "compile-failed"),
            (b"\0asm\1\0\0\0" + bytes(LIMIT), 413, "body-too-large"),
        ],
        ids=["nothing", "text", "wat", "elf", "damaged", "too-large"],
    )
    @pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
    def test_what_is_no_workload_leaves_the_old_one(
        self, inside: httpx.Client, content: bytes, status: int, code: str, chunked: bool
    ) -> None:
        loaded = inside.put("/v1/workload", content=example("hello").read_bytes(), headers=WASM).json()
        body = iter([content]) if chunked else content
        assert code_of(inside.put("/v1/workload", content=body, headers=WASM)) == (status, code)
        assert inside.get("/v1/workload").json() == loaded

    @pytest.mark.parametrize(
        "path",
        [
            "../../workload/workload.json",
            "%2e%2e/%2e%2e/lock",
            "..%2f..%2flock",
            "a/%2e%2e/%2e%2e/f",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "f%00",
            "d/" * 5000,
        ],
    )
    def test_a_path_out_of_its_area_is_refused(
        self, keep: dict[str, Any], deployment: Deployment, operator: Identity, path: str
    ) -> None:
        server = endpoint_of(deployment.keep(keep["id"]))
        for method in ("GET", "PUT", "DELETE"):
            head = (
                f"{method} /v1/files/data/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            answer = server.raw(operator, head.encode())
            assert answer.startswith(b"HTTP/1.1 422 "), answer
            assert b"file-path-invalid" in answer

    def test_a_link_that_a_guest_made_leads_nowhere(self, inside: httpx.Client) -> None:
        inside.put("/v1/workload", content=guest("symlink_maker").read_bytes(), headers=WASM)
        made = inside.post("/v1/runs", json={"args": ["/data/link", "../../lock"]}, headers={"prefer": "wait=30"})
        assert made.json()["exit"]["code"] == 0
        for method in ("GET", "PUT"):
            assert code_of(inside.request(method, "/v1/files/data/link"))[1] == "file-path-invalid"
            assert code_of(inside.request(method, "/v1/files/data/link/f"))[1] == "file-path-invalid"
        assert inside.delete("/v1/files/data/link").status_code == 204
        assert inside.get("/v1/files/data/").json()["entries"] == []


def _base64(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace("\n", "").split("-----")[2]
