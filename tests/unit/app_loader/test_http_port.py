"""The port of a workload's own: who is let in, when it is open, and what of the keep is not there."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keep_protocol.handover import BROKER_SOCKET
from keep_protocol.keep_api import HttpPortStatus, KeepStatus
from keep_protocol.network_policy import Egress, NetworkPolicy
from tests.unit.app_loader.execution_harness import ECHO, GUESTS
from tests.unit.app_loader.http_keep import PROBE, HttpKeep, http_keep
from tests.unit.app_loader.keep_process import CERTIFICATE
from tests.unit.app_loader.loopback_broker import loopback_broker
from tests.unit.app_loader.pki import Credential
from tests.unit.app_loader.serving import PATIENCE, Wire


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class PortKeep:
    """A keep whose spec names a port."""

    def __init__(self, keep: HttpKeep, port: int) -> None:
        self.keep = keep
        self.port = port

    def wire(self, credential: Credential | None) -> Wire:
        """A connection to the port; without a credential, of somebody who has none."""
        context = ssl.create_default_context(cafile=self.keep.folder / CERTIFICATE)
        if credential is not None:
            context.load_cert_chain(credential.write(self.keep.folder))
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        wire = Wire(context.wrap_socket(connection, server_hostname=self.keep.name))
        self.keep.adopt(wire)
        return wire

    def status(self) -> HttpPortStatus | None:
        answer = self.keep.connect(self.keep.auditor).ask("GET", "/v1/status")
        return msgspec.json.decode(answer.body, type=KeepStatus).http_port

    def is_open(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True

    def wait_until_open(self) -> None:
        for _ in range(1000):
            if self.is_open():
                return
            select.select([], [], [], 0.01)
        raise AssertionError("the port is not opened")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[PortKeep]:
    port = free_port()
    network = NetworkPolicy(listen=(port,), egress=Egress(allow=(), deny=()))
    folder = tmp_path / "k"
    folder.mkdir()
    with loopback_broker(folder / BROKER_SOCKET), http_keep(folder, PROBE, network=network) as keep:
        yield PortKeep(keep, port)


def test_every_path_is_the_workloads_for_owners_and_callers(served: PortKeep) -> None:
    assert served.status() is None
    assert served.keep.configure({"http": {"port": served.port}}).status == 200
    assert served.status() == HttpPortStatus(served.port, public=False, listening=True)
    wire = served.wire(served.keep.caller)
    assert wire.ask("GET", "/hello").body == b"Hello, world!\n"
    # What is the keep's on its own port is nothing here.
    assert "wasmkeep-problem" not in wire.ask("GET", "/v1/status").headers
    assert wire.ask("TRACE", "/hello").status == 405
    refused = served.wire(served.keep.auditor).ask("GET", "/hello")
    assert (refused.status, refused.problem.code) == (403, "forbidden")
    # /v1/http/ goes on beside it.
    assert served.keep.ask("/hello").status == 200


def test_strangers_are_refused_unless_the_port_is_public(served: PortKeep) -> None:
    served.keep.configure({"http": {"port": served.port}})
    stranger = served.wire(None)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        stranger.ask("GET", "/hello")
    assert served.keep.configure({"http": {"port": served.port, "public": True}}).status == 200
    assert served.status() == HttpPortStatus(served.port, public=True, listening=True)
    assert served.wire(None).ask("GET", "/hello").body == b"Hello, world!\n"
    # The keep's own port is as it was.
    context = ssl.create_default_context(cafile=served.keep.folder / CERTIFICATE)
    with socket.create_connection(served.keep.address, timeout=PATIENCE) as connection:
        wire = Wire(context.wrap_socket(connection, server_hostname=served.keep.name))
        served.keep.adopt(wire)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            wire.ask("GET", "/v1/http/hello")


def test_the_port_is_closed_when_nobody_would_answer(served: PortKeep) -> None:
    served.keep.configure({"http": {"port": served.port}})
    assert served.is_open()
    served.keep.configure({"http": {"port": served.port, "enabled": False}})
    assert not served.is_open()
    served.keep.configure({"http": {"port": served.port}})
    assert served.is_open()
    owner = served.keep.connect(served.keep.owner)
    assert owner.ask("PUT", "/v1/workload", ECHO, content_type="application/wasm").status == 200
    assert not served.is_open()
    status = served.status()
    assert status is not None
    assert not status.listening
    assert "answers HTTP" in (status.problem or "")
    assert owner.ask("PUT", "/v1/workload", PROBE.read_bytes(), content_type="application/wasm").status == 200
    assert served.is_open()
    assert owner.ask("DELETE", "/v1/configuration").status == 204
    assert not served.is_open()


def test_the_port_is_open_again_after_the_keep_was_killed(served: PortKeep) -> None:
    served.keep.configure({"http": {"port": served.port}})
    served.keep.kill()
    assert not served.is_open()
    served.keep.start()
    served.wait_until_open()
    assert served.wire(served.keep.caller).ask("GET", "/hello").status == 200


def test_a_port_that_is_taken_is_told_and_opened_when_it_is_free(
    served: PortKeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", served.port)):
        assert served.keep.configure({"http": {"port": served.port}}).status == 200
        status = served.status()
        assert status is not None
        assert (status.listening, bool(status.problem)) == (False, True)
    served.wait_until_open()


def test_a_command_answers_there_with_the_port_as_its_root(served: PortKeep) -> None:
    owner = served.keep.connect(served.keep.owner)
    command = (GUESTS / "wagi.wasm").read_bytes()
    assert owner.ask("PUT", "/v1/workload", command, content_type="application/wasm").status == 200
    served.keep.configure({"http": {"port": served.port, "wagi": True, "public": True}})
    lines = served.wire(None).ask("GET", "/seen").body.decode().splitlines()
    assert "env SCRIPT_NAME=" in lines
    assert "env PATH_INFO=/seen" in lines
    assert "env REMOTE_USER=" in lines


def test_public_without_a_port_is_refused_by_name(served: PortKeep) -> None:
    refused = served.keep.configure({"http": {"public": True}})
    assert (refused.status, refused.problem.code, refused.problem.field) == (
        422,
        "configuration-refused",
        "$.http.public",
    )
