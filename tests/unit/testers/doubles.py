"""A deployment in this process: a manager and keeps that speak real TLS and HTTP, and guests that are functions."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from keep_client import KeepPin
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import (
    CallRequest,
    CallResult,
    FileKind,
    FileList,
    FileStored,
    HttpPortStatus,
    KeepStatus,
    Run,
    RunExit,
    RunList,
    RunRequest,
    ServedCounts,
    WorkloadDescription,
    WorkloadInfo,
)
from keep_protocol.manager_api import (
    BackendInfo,
    BackendList,
    Check,
    CreateKeep,
    Directive,
    Event,
    EventList,
    Health,
    Keep,
    KeepDetail,
    KeepList,
    KeepRecord,
    ManagerFile,
)
from keep_protocol.served_api import CallList, RequestList
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import (
    Backend,
    Desired,
    ExitReason,
    FileArea,
    KeepRole,
    KeepState,
    RunState,
    WorkloadKind,
    WorkloadState,
)
from tests.unit.keep_client.certificates import Authority, Pair, keep_certificate
from tests.unit.keep_client.servers import (
    ApiServer,
    Received,
    Reply,
    json_reply,
    problem_reply,
    server_context,
    serving,
)

NOW = "2026-01-01T00:00:00Z"
RAW = "application/octet-stream"
OPERATOR = "spiffe://example.org/user/operator"


@dataclass
class Outcome:
    """What a guest writes and how it ends; the iterables may wait."""

    stdout: Iterable[bytes] = ()
    stderr: Iterable[bytes] = ()
    exit: RunExit = field(default_factory=lambda: RunExit(ExitReason.CODE, 0))


class FakeKeep:
    """What a keep answers; `guest` is what it runs."""

    def __init__(self, spec: KeepSpec, name: str, deployment: FakeDeployment) -> None:
        self.id = secrets.token_hex(8)
        self.name = name
        self.spec = spec
        self.evidence = spec.evidence
        """What the manager says; a keep here never has any."""
        self.state = KeepState.READY
        self.deployment = deployment
        self.pair: Pair = keep_certificate()
        self.server: ApiServer
        self.files: dict[tuple[str, str], bytes] = {}
        self.folders: set[tuple[str, str]] = set()
        self.workload: bytes | None = None
        self.uploads = 0
        self.requests: list[RunRequest] = []
        self.runs: dict[str, tuple[Run, Outcome]] = {}
        self.stdin = b""
        self.fed = threading.Event()
        self.stopped = threading.Event()
        self.function: Callable[[str, CallRequest], Reply] = lambda name, request: json_reply(
            CallResult(request.arguments)
        )
        self.counts = ServedCounts()
        self.http_port: HttpPortStatus | None = None
        self.calls = CallList(())
        self.http_requests = RequestList(())
        self.described = WorkloadDescription(WorkloadKind.COMMAND)
        self.listing: FileList | None = None
        """What every folder is said to hold, whatever it holds."""

    @property
    def digest(self) -> str:
        """Of the spec."""
        return spec_digest(canonical(self.spec))

    def wire(self) -> Keep:
        """As the manager tells of it."""
        return Keep(
            id=self.id,
            name=self.name,
            owner=OPERATOR,
            state=self.state,
            reason=None,
            desired=Desired.RUNNING,
            backend=Backend.PROCESS,
            evidence=self.evidence,
            endpoint=self.server.endpoint,
            certificate=self.pair.certificate,
            invocation="f" * 32,
            pid=4711,
            restarts=0,
            spec_digest=self.digest,
            limits=self.spec.limits,
            created_at=NOW,
            stale=False,
        )

    def record(self) -> KeepRecord:
        """What principals need."""
        spki = KeepPin.from_certificate(self.pair.certificate).spki_sha256
        endpoint, certificate = self.server.endpoint, self.pair.certificate
        return KeepRecord(self.id, endpoint, certificate, spki, Backend.PROCESS, self.evidence, self.digest, "f" * 32)

    def respond(self, received: Received) -> Reply:
        """The keep's API."""
        match received.method, *received.segments:
            case "GET", "v1", "status":
                roles = (KeepRole.OWNER,)
                process = Backend.PROCESS
                status = KeepStatus(self.id, "1", process, self.digest, "f" * 32, NOW, self.info(), 0, 0, 0, roles)
                return json_reply(msgspec.structs.replace(status, calls=self.counts, http_port=self.http_port))
            case "GET", "v1", "workload":
                return json_reply(self.info())
            case "PUT", "v1", "workload":
                if not received.body.startswith(b"\0asm"):
                    return problem_reply(ErrorCode.WORKLOAD_INVALID, "no wasm", remedy="send a .wasm file")
                self.workload, self.uploads = received.body, self.uploads + 1
                return json_reply(self.info())
            case "GET", "v1", "calls":
                return json_reply(self.calls)
            case "GET", "v1", "http-requests":
                return json_reply(self.http_requests)
            case "POST", "v1", "call", function:
                return self.function(function, msgspec.json.decode(received.body, type=CallRequest))
            case method, "v1", "runs", *rest:
                return self._runs(method, rest, received)
            case method, "v1", "files", area, *parts:
                return self._files(method, FileArea(area), "/".join(parts), received)
            case _:
                return problem_reply(ErrorCode.ROUTE_NOT_FOUND, received.path)

    def info(self) -> WorkloadInfo:
        """What is loaded."""
        if self.workload is None:
            return WorkloadInfo(WorkloadState.EMPTY, problems=self.described.problems)
        digest, described = hashlib.sha256(self.workload).hexdigest(), self.described
        return WorkloadInfo(
            WorkloadState.LOADED,
            digest,
            len(self.workload),
            kind=described.kind,
            imports=described.imports,
            exports=described.exports,
            problems=described.problems,
            exports_omitted=described.exports_omitted,
        )

    def _runs(self, method: str, rest: list[str], received: Received) -> Reply:
        match method, *rest:
            case ("POST",):
                request = msgspec.json.decode(received.body, type=RunRequest)
                self.requests.append(request)
                outcome = self.deployment.guest(request, self)
                run_id = f"r{len(self.runs)}"
                run = Run(run_id, RunState.EXITED, NOW, "", outcome.exit, NOW, NOW)
                self.runs[run_id] = (run, outcome)
                return json_reply(run, 202)
            case ("GET",):
                return json_reply(RunList(tuple(run for run, _ in self.runs.values())))
            case "GET", run_id:
                return json_reply(self.runs[run_id][0])
            case "GET", run_id, "stdout":
                return Reply(body=self.runs[run_id][1].stdout or b"", media_type=RAW)
            case "GET", run_id, "stderr":
                return Reply(body=self.runs[run_id][1].stderr or b"", media_type=RAW)
            case "PUT", _, "stdin":
                self.stdin = received.body
                self.fed.set()
                return Reply(204)
            case "POST", run_id, "stop":
                self.stopped.set()
                return json_reply(self.runs[run_id][0])
            case _:
                return problem_reply(ErrorCode.ROUTE_NOT_FOUND, received.path)

    def _files(self, method: str, area: FileArea, path: str, received: Received) -> Reply:
        key = (area.value, path)
        match method:
            case "PUT" if path.endswith("/"):
                self.folders.add((area.value, path.rstrip("/")))
                return json_reply(FileStored(area, path, 0, ""))
            case "PUT":
                self.files[key] = received.body
                stored = FileStored(area, path, len(received.body), hashlib.sha256(received.body).hexdigest())
                return json_reply(stored, 201)
            case "DELETE":
                gone = [place for place in self.files if place == key or place[1].startswith(f"{path}/")]
                for place in gone:
                    del self.files[place]
                return Reply(204) if gone else problem_reply(ErrorCode.FILE_NOT_FOUND, f"no {path}")
            case _ if key in self.files:
                return Reply(body=self.files[key], media_type=RAW)
            case _ if self.listing is not None:
                return json_reply(self.listing)
            case _:
                return self._list(area, path)

    def _list(self, area: FileArea, path: str) -> Reply:
        prefix = f"{path}/" if path else ""
        inside = {(name, True) for place, name in self.folders if place == area.value and name.startswith(prefix)}
        inside |= {(name, False) for place, name in self.files if place == area.value and name.startswith(prefix)}
        kinds = {
            first: "folder" if rest or is_folder else "file"
            for name, is_folder in inside
            for first, _, rest in (name.removeprefix(prefix).partition("/"),)
        }
        if path and not inside and (area.value, path) not in self.folders:
            return problem_reply(ErrorCode.FILE_NOT_FOUND, f"there is no {path}")
        entries = [{"name": name, "kind": kind, "size": 0, "modified_at": NOW} for name, kind in sorted(kinds.items())]
        return json_reply(FileList(area, path, tuple(msgspec.convert(entries, list[FileKind]))))


class FakeDeployment:
    """What a manager answers, and the home directory that leads to it."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self.keeps: dict[str, FakeKeep] = {}
        self.removed: list[FakeKeep] = []
        self.guest: Callable[[RunRequest, FakeKeep], Outcome] = lambda request, keep: Outcome()
        self.creating: Callable[[], None] = lambda: None
        self._stack = stack
        clients, servers = Authority("clients"), Authority("servers")
        pki = home / "config" / "pki"
        pki.mkdir(parents=True)
        clients.client(OPERATOR).saved(pki, "operator")
        (pki / "client-ca.pem").write_text(clients.certificate)
        (pki / "server-ca.pem").write_text(servers.certificate)
        self._client_ca = clients.certificate
        self.server = ApiServer(server_context(servers.server(), pki, client_ca=clients.certificate), self.respond)
        stack.enter_context(serving(self.server))
        file = ManagerFile(f"https://{self.server.endpoint}", str(pki / "server-ca.pem"), 1, "0" * 8, "private", "/run")
        (home / "manager.json").write_bytes(msgspec.json.encode(file))

    def add(self, spec: KeepSpec, name: str | None) -> FakeKeep:
        """A new keep, serving."""
        keep = FakeKeep(spec, name or f"keep-{len(self.keeps)}", self)
        folder = self.home / keep.id
        folder.mkdir()
        keep.server = ApiServer(server_context(keep.pair, folder, client_ca=self._client_ca), keep.respond)
        self._stack.enter_context(serving(keep.server))
        self.keeps[keep.id] = keep
        return keep

    def respond(self, received: Received) -> Reply:
        """The manager's API."""
        try:
            return self._respond(received)
        except RefusalError as refusal:
            return problem_reply(refusal.code, refusal.detail)

    def _respond(self, received: Received) -> Reply:
        match received.method, *received.segments:
            case "GET", "v1", "health":
                roles = ("operator",)
                return json_reply(Health("ok", "1", "0" * 8, "private", "no systemd", True, NOW, OPERATOR, roles))
            case "GET", "v1", "backends":
                return json_reply(
                    BackendList((BackendInfo(Backend.PROCESS, True, (Check("wasmtime", True, "50"),)),), ())
                )
            case "POST", "v1", "keeps":
                request = msgspec.json.decode(received.body, type=CreateKeep)
                keep = self.add(request.spec, request.name)
                self.creating()
                return json_reply(keep.wire(), 201)
            case "GET", "v1", "keeps":
                return json_reply(KeepList(tuple(keep.wire() for keep in self.keeps.values()), (), (), stale=False))
            case "GET", "v1", "events":
                events = tuple(Event(n, NOW, "keep-ready", None, None, None, {"a": "b"}) for n in (1, 2, 3))
                cursor = int(received.query["cursor"])
                return json_reply(EventList(tuple(event for event in events if event.cursor > cursor), next=3))
            case method, "v1", "keeps", ref, *rest:
                return self._keep(method, self._find(ref), rest)
            case _:
                return problem_reply(ErrorCode.ROUTE_NOT_FOUND, received.path)

    def _keep(self, method: str, keep: FakeKeep, rest: list[str]) -> Reply:
        match method, *rest:
            case ("GET",):
                sandbox = (Directive("PrivateNetwork", "verified now"), Directive("ProtectClock", "not testable"))
                return json_reply(KeepDetail(keep.wire(), "private", "keep@x.service", None, sandbox, True, keep.spec))
            case "GET", "record":
                return json_reply(keep.record())
            case "GET", "logs":
                return Reply(body=b"ready\n", media_type="text/plain")
            case ("DELETE",):
                self.removed.append(self.keeps.pop(keep.id))
                return Reply(204)
            case "POST", "stop":
                keep.state = KeepState.STOPPED
                return json_reply(keep.wire())
            case "POST", ("start" | "restart"):
                keep.state = KeepState.READY
                return json_reply(keep.wire())
            case _:
                return problem_reply(ErrorCode.ROUTE_NOT_FOUND, "no such route")

    def _find(self, ref: str) -> FakeKeep:
        for keep in self.keeps.values():
            if ref in (keep.id, keep.name):
                return keep
        raise RefusalError(ErrorCode.KEEP_NOT_FOUND, f"there is no keep {ref}")


@contextmanager
def deployment(home: Path) -> Iterator[FakeDeployment]:
    """A deployment for as long as the block lasts."""
    with ExitStack() as stack:
        yield FakeDeployment(home, stack)
