"""A whole keep: its own process, real TLS, real wasm, real signals."""

from __future__ import annotations

import gzip
import hashlib
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_protocol.digests import content_digest
from keep_protocol.handover import Configuration
from keep_protocol.keep_api import CallResult, FileList, FileStored, KeepStatus, Run, RunList, WorkloadInfo
from keep_protocol.network_policy import NO_NETWORK
from keep_protocol.served_api import CallList
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, canonical, spec_digest
from keep_protocol.states import (
    AtRest,
    Backend,
    CrlPolicy,
    ExitReason,
    FileArea,
    KeepRole,
    RunState,
    WorkloadState,
)
from tests.unit.app_loader.keep_process import CERTIFICATE, CONFIGURATION, HOST, STATE
from tests.unit.app_loader.pki import Authority, Credential, self_signed
from tests.unit.app_loader.serving import PATIENCE, Answer, Wire

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
SHOUT = (EXAMPLES / "shout" / "shout.wasm").read_bytes()
ALICE = "spiffe://example.org/user/alice"
BOB = "spiffe://example.org/user/bob"
WASM = "application/wasm"
JSON = "application/json"


class KeepProcess:
    """A keep with three principals: an owner and a caller under a CA with revocation lists, a pinned data provider."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        """`changes` are fields of its spec."""
        self.folder = folder
        self.authority = Authority()
        self.owner = self.authority.issue(ALICE)
        self.caller = self.authority.issue(BOB)
        self.provider = self_signed()
        spec = KeepSpec(
            version=1,
            nonce="0" * 32,
            backend=Backend.PROCESS,
            at_rest=AtRest.PLAIN,
            evidence=None,
            network=NO_NETWORK,
            principals=(
                self.authority.names(ALICE, KeepRole.OWNER, crl=CrlPolicy.REQUIRED),
                self.authority.names(BOB, KeepRole.CALLER, crl=CrlPolicy.REQUIRED),
                self.provider.pinned(KeepRole.DATA_PROVIDER),
            ),
            limits=msgspec.structs.replace(DEFAULT_LIMITS, files=4 * 1024 * 1024, workload=1024 * 1024),
            restart_runs=False,
        )
        self.spec = msgspec.structs.replace(spec, **changes)
        self.host = folder / HOST
        self.host.mkdir()
        (folder / STATE).mkdir()
        self.revoke()
        configuration = Configuration(
            id="0123456789abcdef",
            deployment="01234567",
            spec=canonical(self.spec).decode(),
            domain="example.org",
            names=("localhost",),
        )
        (folder / CONFIGURATION).write_bytes(msgspec.json.encode(configuration))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.wires: list[Wire] = []
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process and wait until it has published its certificate."""
        descriptor = self.listener.fileno()
        (self.folder / CERTIFICATE).unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.app_loader.keep_process", str(self.folder), str(descriptor)],
            cwd=ROOT,
            pass_fds=[descriptor],
        )
        limit = time.monotonic() + PATIENCE
        while not (self.folder / CERTIFICATE).exists():
            assert process.poll() is None, "the keep ended early"
            assert time.monotonic() < limit, "the keep does not come up"
            select.select([], [], [], 0.01)
        return process

    def restart(self) -> None:
        self.process = self.start()

    def end(self) -> None:
        for wire in self.wires:
            wire.close()
        self.process.kill()
        self.process.wait()
        self.listener.close()

    def revoke(self, *credentials: Credential) -> None:
        (self.host / "client-crl.pem").write_bytes(self.authority.revocations(credentials))

    def connect(self, credential: Credential) -> Wire:
        context = ssl.create_default_context(cafile=self.folder / CERTIFICATE)
        context.load_cert_chain(credential.write(self.folder))
        connection = socket.create_connection(self.listener.getsockname(), timeout=PATIENCE)
        wire = Wire(context.wrap_socket(connection, server_hostname="0123456789abcdef.keep.example.org"))
        self.wires.append(wire)
        return wire

    def load(self, name: str) -> Answer:
        content = (EXAMPLES / name / f"{name}.wasm").read_bytes()
        return self.connect(self.owner).ask("PUT", "/v1/workload", content, content_type=WASM)


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[KeepProcess]:
    process = KeepProcess(tmp_path)
    yield process
    process.end()


def start_run(wire: Wire, body: bytes = b"{}", prefer: str = "wait=20") -> Run:
    return msgspec.json.decode(wire.ask("POST", "/v1/runs", body, content_type=JSON, prefer=prefer).body, type=Run)


def test_a_fresh_keep_tells_what_it_is_and_who_asks(keep: KeepProcess) -> None:
    status = msgspec.json.decode(keep.connect(keep.provider).ask("GET", "/v1/status").body, type=KeepStatus)
    assert status.id == "0123456789abcdef"
    assert status.spec_digest == spec_digest(canonical(keep.spec))
    assert status.workload == WorkloadInfo(state=WorkloadState.EMPTY)
    assert (status.files_used, status.runs_active, status.runs_queued) == (0, 0, 0)
    assert status.you == (KeepRole.DATA_PROVIDER,)


def test_a_workload_is_loaded_run_and_its_output_fetched(keep: KeepProcess) -> None:
    content = (EXAMPLES / "hello" / "hello.wasm").read_bytes()
    digest = hashlib.sha256(content)
    owner, caller = keep.connect(keep.owner), keep.connect(keep.caller)
    header = content_digest(digest.digest())
    loaded = owner.ask("PUT", "/v1/workload", content, content_type=WASM, content_digest=header)
    info = msgspec.json.decode(loaded.body, type=WorkloadInfo)
    assert (info.state, info.digest, info.size) == (WorkloadState.LOADED, digest.hexdigest(), len(content))

    run = start_run(caller)
    assert run.state is RunState.EXITED
    assert run.exit is not None
    assert (run.exit.reason, run.exit.code) == (ExitReason.CODE, 0)
    assert caller.ask("GET", f"/v1/runs/{run.id}/stdout?follow=1").body == b"Hello, world!\n"
    tail = caller.ask("GET", f"/v1/runs/{run.id}/stdout?offset=7")
    assert (tail.body, tail.headers["wasmkeep-offset"]) == (b"world!\n", "7")
    assert caller.ask("GET", f"/v1/runs/{run.id}/stdout?offset=99").problem.code == "offset-invalid"
    listed = msgspec.json.decode(caller.ask("GET", "/v1/runs").body, type=RunList)
    assert [each.id for each in listed.runs] == [run.id]


def test_a_function_is_called_over_the_wire_and_problems_name_what_is_wrong(keep: KeepProcess) -> None:
    keep.load("arithmetic")
    caller = keep.connect(keep.caller)
    answer = caller.ask("POST", "/v1/call/add", b'{"arguments": [40, 2]}', content_type=JSON)
    called = msgspec.json.decode(answer.body, type=CallResult)
    assert (bytes(called.result), called.usage is not None) == (b"42", True)
    wrong = caller.ask("POST", "/v1/call/add", b'{"arguments": [40, "2"]}', content_type=JSON).problem
    assert (wrong.code, wrong.field) == ("field-invalid", "$.arguments[1]")
    unknown = caller.ask("POST", "/v1/call/no%2Fsuch%23function", b"{}", content_type=JSON)
    assert (unknown.status, unknown.problem.code) == (404, "function-not-found")
    assert "no/such#function" in unknown.problem.detail
    trapped = caller.ask("POST", "/v1/call/divide", b'{"arguments": [1, 0]}', content_type=JSON).problem
    assert (trapped.code, trapped.trap) == ("call-trapped", "integer-division-by-zero")
    assert trapped.backtrace
    late = caller.ask("POST", "/v1/call/fibonacci", b'{"arguments": [60], "timeout": 0.1}', content_type=JSON)
    assert (late.status, late.problem.code) == (504, "call-timeout")
    deep = b'{"arguments": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert caller.ask("POST", "/v1/call/add", deep, content_type=JSON).problem.code == "bad-request"
    assert caller.ask("POST", "/v1/call/add", b'{"arguments": 7}', content_type=JSON).problem.field == "$.arguments"
    assert caller.ask("POST", "/v1/call/add", b'{"arg": []}', content_type=JSON).problem.code == "field-invalid"
    provider = keep.connect(keep.provider)
    assert provider.ask("POST", "/v1/call/add", b"{}", content_type=JSON).problem.code == "forbidden"
    calls = msgspec.json.decode(caller.ask("GET", "/v1/calls").body, type=CallList).calls
    assert [call.outcome.value for call in calls[:4]] == ["answered", "refused", "refused", "trapped"]
    status = msgspec.json.decode(caller.ask("GET", "/v1/status").body, type=KeepStatus)
    assert (status.calls.answered, status.calls.failed) == (1, 2)


def test_status_leaves_out_what_the_workload_imports_and_exports(keep: KeepProcess) -> None:
    keep.load("geometry")
    owner = keep.connect(keep.owner)
    info = msgspec.json.decode(owner.ask("GET", "/v1/workload").body, type=WorkloadInfo)
    assert (info.kind, len(info.exports)) == ("component", 4)
    status = msgspec.json.decode(owner.ask("GET", "/v1/status").body, type=KeepStatus)
    assert (status.workload.kind, status.workload.exports) == ("component", ())


def test_python_source_comes_with_what_runs_it(keep: KeepProcess) -> None:
    owner = keep.connect(keep.owner)
    refused = owner.ask("PUT", "/v1/workload", b"print(1)", content_type="text/x-python")
    assert (refused.status, refused.problem.code, refused.problem.field) == (422, "field-invalid", "runtime")
    refused = owner.ask("PUT", f"/v1/workload?runtime={'0' * 64}", b"print(1)", content_type="text/x-python")
    assert (refused.status, refused.problem.code) == (409, "runtime-not-found")
    runtime = hashlib.sha256(SHOUT).hexdigest()
    keep.load("shout")
    loaded = owner.ask("PUT", f"/v1/workload?runtime={runtime}", b"print(1)", content_type="text/x-python")
    info = msgspec.json.decode(loaded.body, type=WorkloadInfo)
    named = f"wasmkeep-python\n{runtime}\n{hashlib.sha256(b'print(1)').hexdigest()}\n"
    assert (info.kind, info.runtime, info.size) == ("python", runtime, 8)
    assert info.digest == hashlib.sha256(named.encode()).hexdigest()


def test_a_compressed_workload_is_loaded_as_what_it_is_decoded_to(keep: KeepProcess) -> None:
    owner = keep.connect(keep.owner)
    body = gzip.compress(SHOUT)
    answered = owner.ask("PUT", "/v1/workload", body, content_type="application/wasm", content_encoding="gzip")
    info = msgspec.json.decode(answered.body, type=WorkloadInfo)
    assert info.digest == hashlib.sha256(SHOUT).hexdigest()
    refused = owner.ask("PUT", "/v1/workload", body, content_type="application/wasm", content_encoding="br")
    assert (refused.status, refused.headers["accept-encoding"]) == (415, "gzip, zstd")


def test_a_run_that_is_not_waited_for_is_accepted_and_outlives_its_client(keep: KeepProcess) -> None:
    keep.load("endless")
    wire = keep.connect(keep.caller)
    answer = wire.ask("POST", "/v1/runs", b"{}", content_type=JSON)
    run = msgspec.json.decode(answer.body, type=Run)
    assert (answer.status, answer.headers["location"]) == (202, f"/v1/runs/{run.id}")
    wire.close()
    other = keep.connect(keep.caller)
    assert msgspec.json.decode(other.ask("GET", f"/v1/runs/{run.id}").body, type=Run).exit is None
    stopped = msgspec.json.decode(other.ask("POST", f"/v1/runs/{run.id}/stop", b"").body, type=Run)
    assert stopped.exit is not None
    assert stopped.exit.reason is ExitReason.STOPPED


def test_standard_input_is_streamed_and_output_followed(keep: KeepProcess) -> None:
    keep.load("echo")
    sender, follower = keep.connect(keep.caller), keep.connect(keep.caller)
    run = start_run(sender, b'{"stdin": "stream"}', prefer="return=minimal")
    follower.send(f"GET /v1/runs/{run.id}/stdout?follow=1 HTTP/1.1\r\nhost: keep\r\n\r\n".encode())
    assert follower.head() == 200
    sender.send(f"PUT /v1/runs/{run.id}/stdin HTTP/1.1\r\nhost: keep\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    sender.send(b"6\r\nfirst\n\r\n")
    assert follower.chunk().startswith(b"first")
    sender.send(b"7\r\nsecond\n\r\n0\r\n\r\n")
    assert sender.answer().status == 204
    assert b"".join(iter(follower.chunk, b"")).endswith(b"second\n")


def test_a_workload_with_the_wrong_digest_changes_nothing(keep: KeepProcess) -> None:
    keep.load("hello")
    wire = keep.connect(keep.owner)
    wrong = content_digest(bytes(32))
    answer = wire.ask("PUT", "/v1/workload", b"\0asm\1\0\0\0", content_type=WASM, content_digest=wrong)
    assert (answer.status, answer.problem.code) == (422, "workload-digest-mismatch")
    assert wire.ask("PUT", "/v1/workload", b"", content_type=WASM, content_digest="md5=:AA==:").problem.code
    assert msgspec.json.decode(wire.ask("GET", "/v1/workload").body, type=WorkloadInfo).state == "loaded"


def test_a_workload_upload_that_breaks_off_stores_nothing(keep: KeepProcess) -> None:
    wire = keep.connect(keep.owner)
    wire.send(
        b"PUT /v1/workload HTTP/1.1\r\nhost: k\r\ncontent-type: application/wasm\r\ncontent-length: 9\r\n\r\n\0asm"
    )
    wire.socket.shutdown(socket.SHUT_RDWR)
    hello = keep.load("hello")
    while hello.status == 409:  # until the keep has noticed
        hello = keep.load("hello")
    assert hello.status == 200
    assert len(list((keep.folder / STATE / "workload").glob("*.wasm"))) == 1


def test_files_are_put_listed_fetched_and_removed_over_the_wire(keep: KeepProcess) -> None:
    wire = keep.connect(keep.provider)
    digest = content_digest(hashlib.sha256(b"data").digest())
    stored = wire.ask("PUT", "/v1/files/input/a/%62", b"data", content_digest=digest)
    assert stored.status == 201
    assert msgspec.json.decode(stored.body, type=FileStored).path == "a/b"
    assert wire.ask("PUT", "/v1/files/input/a/b", b"data").status == 200
    listed = msgspec.json.decode(wire.ask("GET", "/v1/files/input/a").body, type=FileList)
    assert [(entry.name, entry.size) for entry in listed.entries] == [("b", 4)]
    assert wire.ask("GET", "/v1/files/input/a/b").body == b"data"
    assert wire.ask("PUT", "/v1/files/input/folder/", b"").status == 201
    assert wire.ask("DELETE", "/v1/files/input/").status == 204
    assert msgspec.json.decode(wire.ask("GET", "/v1/files/input/").body, type=FileList).entries == ()
    assert wire.ask("GET", "/v1/files/input/a/b").problem.code == "file-not-found"
    assert wire.ask("PUT", "/v1/files/input/../../lock", b"x").problem.code == "file-path-invalid"
    assert wire.ask("GET", "/v1/files/output/").problem.code == "forbidden"


def test_a_file_with_the_wrong_digest_or_beyond_the_limit_is_not_stored(keep: KeepProcess) -> None:
    wire = keep.connect(keep.provider)
    wrong = wire.ask("PUT", "/v1/files/input/f", b"data", content_digest=content_digest(bytes(32)))
    assert (wrong.status, wrong.problem.code) == (422, "digest-mismatch")
    wire.send(
        b"PUT /v1/files/input/f HTTP/1.1\r\nhost: keep\r\ncontent-length: 4194305\r\nexpect: 100-continue\r\n\r\n"
    )
    assert wire.answer().problem.code == "body-too-large"
    wire = keep.connect(keep.provider)
    assert wire.ask("GET", "/v1/files/input/f").problem.code == "file-not-found"
    assert sorted(os.listdir(keep.folder / STATE / "files")) == sorted(FileArea)


def test_a_client_that_is_revoked_is_refused_on_its_open_connection(keep: KeepProcess) -> None:
    wire = keep.connect(keep.owner)
    assert wire.ask("GET", "/v1/status").status == 200
    keep.revoke(keep.owner)
    assert wire.ask("GET", "/v1/status").problem.code == "certificate-revoked"
    assert wire.rest() == b""
    assert keep.connect(keep.caller).ask("GET", "/v1/status").status == 200


def test_sigterm_ends_runs_followers_and_the_process_cleanly(keep: KeepProcess) -> None:
    keep.load("endless")
    wire = keep.connect(keep.caller)
    run = start_run(wire, prefer="")
    wire.send(f"GET /v1/runs/{run.id}/stdout?follow=1 HTTP/1.1\r\nhost: keep\r\n\r\n".encode())
    assert wire.head() == 200
    keep.process.terminate()
    assert keep.process.wait(PATIENCE) == 0
    assert b"".join(iter(wire.chunk, b"")) == b""
    keep.restart()
    after = msgspec.json.decode(keep.connect(keep.caller).ask("GET", f"/v1/runs/{run.id}").body, type=Run)
    assert after.state is RunState.EXITED


def test_the_keep_ends_when_its_runner_dies(keep: KeepProcess) -> None:
    children = Path(f"/proc/{keep.process.pid}/task/{keep.process.pid}/children").read_text().split()
    (runner,) = (int(child) for child in children)
    os.kill(runner, signal.SIGKILL)
    assert keep.process.wait(PATIENCE) == 1


def test_what_was_acknowledged_survives_sigkill(keep: KeepProcess) -> None:
    assert keep.load("hello").status == 200
    assert keep.connect(keep.provider).ask("PUT", "/v1/files/input/f", b"data").status == 201
    keep.process.kill()
    keep.process.wait()
    keep.restart()
    assert keep.connect(keep.provider).ask("GET", "/v1/files/input/f").body == b"data"
    run = start_run(keep.connect(keep.caller))
    assert run.exit is not None
    assert run.exit.code == 0


def test_the_event_loops_heart_beats(keep: KeepProcess) -> None:
    beats = keep.folder / "beats"
    limit = time.monotonic() + PATIENCE
    while not beats.exists() or int(beats.read_text() or 0) < 3:
        assert time.monotonic() < limit
        select.select([], [], [], 0.01)
