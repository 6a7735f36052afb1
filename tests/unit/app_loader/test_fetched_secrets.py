"""A whole keep gets a secret from a broker that verifies it, and no owner is there: real TLS, real wasm, SIGKILL."""

from __future__ import annotations

import base64
import hashlib
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import BROKER_SOCKET
from keep_protocol.keep_api import Run
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.secret_api import SecretList, SourceState
from keep_protocol.secret_sources import KbsSource
from keep_protocol.spec import canonical
from keep_protocol.states import RunState
from tests.unit.app_loader.execution_harness import SPINS, guest, wat
from tests.unit.app_loader.keep_process import STATE
from tests.unit.app_loader.key_release.services import BROKER, ServiceAuthority
from tests.unit.app_loader.key_release.verifying_broker import VerifyingBroker, this_code
from tests.unit.app_loader.loopback_broker import loopback_broker
from tests.unit.app_loader.serving import PATIENCE, Answer, Wire
from tests.unit.app_loader.test_main import KeepProcess
from tests.unit.keep_attestation.key_release.http_server import serve

CANARY = b"canary-of-the-broker-3c1d"
JSON = "application/json"
RUN = b'{"args": ["/secrets/key"], "secrets": [{"name": "key", "file": "/secrets/key"}]}'


class ExpectedKeep(KeepProcess):
    """A keep whose spec its key broker expects from the first start on."""

    def __init__(self, folder: Path, broker: VerifyingBroker, **changes: Any) -> None:
        self.broker = broker
        super().__init__(folder, **changes)

    def start(self) -> subprocess.Popen[bytes]:
        if self.broker.spec_sha256 is None:
            self.broker.spec_sha256 = hashlib.sha256(canonical(self.spec)).digest()
        return super().start()


class Fetching:
    """A keep, the key broker that it fetches from, and the network broker between them."""

    def __init__(self, folder: Path, broker: VerifyingBroker, url: str, authority: ServiceAuthority) -> None:
        port = urlsplit(url).port
        assert port is not None
        self.broker = broker
        source = KbsSource("key", f"https://{BROKER}:{port}", "default/key/1", roots=authority.roots)
        allowed = EgressRule(host=BROKER, ports=(port,), methods=("GET", "POST"), private=True)
        self.keep = ExpectedKeep(
            folder,
            broker,
            evidence=EvidenceKind.SIMULATED,
            network=NetworkPolicy(listen=(), egress=Egress(allow=(allowed,), deny=())),
            secrets=(source,),
            restart_runs=True,
        )

    def served(self) -> int:
        """How often the broker has given the secret out."""
        return sum(request.path.startswith("/kbs/v0/resource/") for request in self.broker.requests)

    def attested(self) -> Wire:
        """An owner's connection on which the keep has proven itself."""
        wire = self.keep.connect(self.keep.owner)
        nonce = base64.b64encode(bytes(32)).decode()
        assert wire.ask("POST", "/v1/attestation", f'{{"nonce": "{nonce}"}}'.encode(), content_type=JSON).status == 200
        return wire

    def run(self) -> Answer:
        return self.keep.connect(self.keep.owner).ask("POST", "/v1/runs", RUN, content_type=JSON, prefer="wait=20")

    def output_of(self, answer: Answer) -> bytes:
        run = msgspec.json.decode(answer.body, type=Run)
        return self.keep.connect(self.keep.owner).ask("GET", f"/v1/runs/{run.id}/stdout").body

    def kill_and_restart(self) -> None:
        self.keep.process.kill()
        self.keep.process.wait()
        self.keep.restart()


@pytest.fixture
def fetching() -> Iterator[Fetching]:
    authority = ServiceAuthority()
    broker = VerifyingBroker(this_code(), None)
    broker.resources["default/key/1"] = CANARY
    # Not tmp_path: the broker's socket needs a short path.
    with (
        tempfile.TemporaryDirectory(prefix="wk") as name,
        serve(broker, authority.tls(Path(name), BROKER)) as url,
        loopback_broker(Path(name) / BROKER_SOCKET),
    ):
        fetching = Fetching(Path(name), broker, url, authority)
        try:
            yield fetching
        finally:
            fetching.keep.end()


def eventually(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit, "it never came to be"
        select.select([], [], [], 0.01)


def test_a_keep_has_its_secret_before_anybody_connects_and_a_run_sees_it_as_a_file(fetching: Fetching) -> None:
    eventually(lambda: fetching.served() == 1)
    content = guest("read_file")
    wire = fetching.keep.connect(fetching.keep.owner)
    assert wire.ask("PUT", "/v1/workload", content, content_type="application/wasm").status == 200
    assert fetching.output_of(fetching.run()) == CANARY
    listed = msgspec.json.decode(fetching.attested().ask("GET", "/v1/secrets").body, type=SecretList)
    assert [(source.name, source.state) for source in listed.sources] == [("key", SourceState.FETCHED)]
    assert fetching.served() == 1
    for path in fetching.keep.folder.joinpath(STATE).rglob("*"):
        # What the guest printed is the owner's to keep; nothing else holds it.
        assert not path.is_file() or path.name == "stdout" or CANARY not in path.read_bytes(), path


def test_a_killed_keep_fetches_again_by_evidence_of_its_next_life(fetching: Fetching) -> None:
    wire = fetching.keep.connect(fetching.keep.owner)
    assert wire.ask("PUT", "/v1/workload", guest("read_file"), content_type="application/wasm").status == 200
    assert fetching.output_of(fetching.run()) == CANARY
    fetching.broker.resources["default/key/1"] = b"rotated meanwhile"
    fetching.kill_and_restart()
    assert fetching.output_of(fetching.run()) == b"rotated meanwhile"
    assert fetching.served() == 2
    assert len(fetching.broker.sessions) == 2


def test_a_keep_of_another_spec_than_the_broker_expects_gets_nothing_and_says_why(fetching: Fetching) -> None:
    fetching.broker.spec_sha256 = bytes(32)
    fetching.kill_and_restart()
    wire = fetching.keep.connect(fetching.keep.owner)
    assert wire.ask("PUT", "/v1/workload", guest("read_file"), content_type="application/wasm").status == 200
    refused = fetching.run()
    assert (refused.status, refused.problem.code) == (503, "secret-pending")
    assert "does not accept the keep's evidence" in refused.problem.detail
    assert fetching.broker.refused[-1] == "another spec"
    listed = msgspec.json.decode(fetching.attested().ask("GET", "/v1/secrets").body, type=SecretList)
    assert listed.secrets == ()
    assert [source.state for source in listed.sources] == [SourceState.WAITING]


def test_a_run_with_a_secret_that_was_interrupted_goes_on_with_it_in_the_next_life(fetching: Fetching) -> None:
    wire = fetching.keep.connect(fetching.keep.owner)
    assert wire.ask("PUT", "/v1/workload", wat(SPINS), content_type="application/wasm").status == 200
    body = b'{"secrets": [{"name": "key", "env": "KEY"}]}'
    started = wire.ask("POST", "/v1/runs", body, content_type=JSON)
    run = msgspec.json.decode(started.body, type=Run)
    eventually(lambda: fetching.served() == 1)
    fetching.kill_and_restart()

    def state() -> RunState:
        answer = fetching.keep.connect(fetching.keep.owner).ask("GET", f"/v1/runs/{run.id}")
        return msgspec.json.decode(answer.body, type=Run).state

    eventually(lambda: state() is not RunState.QUEUED)
    assert state() is RunState.RUNNING
    assert fetching.served() == 2
