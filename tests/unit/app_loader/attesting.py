"""A keep's server that has evidence, with everything in it that proves a keep and nothing that runs workloads."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

from app_loader.area_states import prepare_areas
from app_loader.attesters.interface import Attester
from app_loader.attesters.selection import SimulatedAttester
from app_loader.calls import Calls
from app_loader.configuration_store import ConfigurationStore
from app_loader.dispatch import Dispatcher
from app_loader.evidence import EvidenceMaker
from app_loader.files import Files
from app_loader.http_service import HttpService
from app_loader.identity import Identity
from app_loader.keep import Keep
from app_loader.messages import Request, Response
from app_loader.runs import Runs
from app_loader.session import Session
from app_loader.workload import Workload
from keep_client.specs import new_spec
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import Configuration
from keep_protocol.keep_api import ServedCounts, WorkloadInfo
from keep_protocol.spec import KeepSpec, Principal, canonical, spec_digest
from keep_protocol.states import WorkloadState
from tests.unit.app_loader.serving import PATIENCE, Serving

KEEP_ID = "0123456789abcdef"
DOMAIN = "example.org"


def attested_spec(principals: Sequence[Principal]) -> KeepSpec:
    """A spec that asks for simulated evidence."""
    return new_spec(principals=principals, evidence=EvidenceKind.SIMULATED)


def evidence_maker(
    spec: KeepSpec, *, keep: str = KEEP_ID, attester: Attester | None = None, clock: Callable[[], float] = time.time
) -> EvidenceMaker:
    """What makes the evidence of the keep with this spec and id."""
    return EvidenceMaker(
        attester or SimulatedAttester(),
        keep=keep,
        backend=spec.backend.value,
        spec_sha256=bytes.fromhex(spec_digest(canonical(spec))),
        clock=clock,
    )


def private_key_of(identity: Identity) -> bytes:
    """A keep's TLS key in PEM, as nobody but a test or a thief gets hold of it."""
    descriptor = os.memfd_create("stolen")
    with os.fdopen(descriptor, "r+b") as file:
        identity._key.write_pem(descriptor)
        file.seek(0)
        return file.read()


class Asked(NamedTuple):
    """A request as the keep saw it; `connection` counts connections from 0."""

    method: str
    path: str
    connection: int


class AttestedServing(Serving):
    """The server; `asked` has every request that reached it."""

    def __init__(
        self,
        folder: Path,
        principals: Sequence[Principal],
        *,
        spec: KeepSpec | None = None,
        evidence: bool = True,
        attester: Attester | None = None,
        keep_id: str = KEEP_ID,
        port: int = 0,
    ) -> None:
        super().__init__(folder, principals, self._answer)
        self.spec = spec or attested_spec(principals)
        self.keep_id = keep_id
        self.evidence = evidence_maker(self.spec, keep=keep_id, attester=attester) if evidence else None
        self.identity = Identity(
            keep_id,
            DOMAIN,
            ("localhost", "127.0.0.1"),
            evidence=None if self.evidence is None else self.evidence.collection,
        )
        self.workload = WorkloadInfo(state=WorkloadState.EMPTY)
        self.asked: list[Asked] = []
        self._sessions: list[Session] = []
        self._port = port
        self._dispatcher: Dispatcher

    def __enter__(self) -> AttestedServing:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_keep()))
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    @property
    def endpoint(self) -> str:
        """`ADDRESS:PORT`"""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def spec_sha256(self) -> bytes:
        return bytes.fromhex(spec_digest(canonical(self.spec)))

    def loaded(self, digest: bytes) -> None:
        """From now on a workload of this SHA-256 is loaded."""
        self.workload = WorkloadInfo(state=WorkloadState.LOADED, digest=digest.hex(), size=1)

    def hang_up(self) -> None:
        """Cut every connection off that is open now, and wait until all are gone."""
        self.loop.call_soon_threadsafe(self._abort_all)
        self.wait_until_empty()

    def _abort_all(self) -> None:
        for connection in self.server._connections:
            connection.abort()

    async def _serve_keep(self) -> None:
        serving = self

        class _Loaded:
            @property
            def info(self) -> WorkloadInfo:
                return serving.workload

            summary = info

        files = Files(self.folder / "files", 2**20)
        prepare_areas(files.root)
        self.keep = Keep(
            Configuration(
                id=self.keep_id,
                deployment="d" * 8,
                spec=canonical(self.spec).decode(),
                domain=DOMAIN,
                names=(),
            ),
            self.spec,
            invocation="f" * 32,
            files=files,
            workload=cast(Workload, _Loaded()),
            runs=cast(Runs, SimpleNamespace(active=0, queued=0)),
            calls=cast(Calls, SimpleNamespace(counts=ServedCounts())),
            http=cast(HttpService, SimpleNamespace(counts=ServedCounts())),
            workload_configuration=ConfigurationStore(self.folder, self.spec),
            evidence=self.evidence,
            spki=self.identity.spki,
        )
        self._dispatcher = Dispatcher(self.keep)
        await self._run()

    async def _answer(self, request: Request) -> Response:
        if request.session not in self._sessions:
            self._sessions.append(request.session)
        path = b"/".join((b"", *request.segments)).decode()
        self.asked.append(Asked(request.method, path, self._sessions.index(request.session)))
        return await self._dispatcher(request)
