"""A keep in a process of its own whose workload answers HTTP requests, for tests."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from keep_protocol.handover import Configuration
from keep_protocol.memory_folder import SHARED_MEMORY, memory_folder_of
from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from keep_protocol.spec import canonical
from keep_protocol.states import KeepRole
from tests.unit.app_loader.execution_harness import GUESTS, REPOSITORY, spec
from tests.unit.app_loader.keep_process import CERTIFICATE, CONFIGURATION, HOST, STATE
from tests.unit.app_loader.pki import Credential, self_signed
from tests.unit.app_loader.serving import PATIENCE, Answer, Wire

PROBE = GUESTS / "http" / "probe.wasm"
WEB = REPOSITORY / "examples" / "web" / "web.wasm"


Http: TypeAlias = dict[str, bool | int]


class HttpKeep:
    """Its owner, a caller and an auditor; loaded with one workload."""

    name = "0123456789abcdef.keep.example.org"

    def __init__(
        self,
        folder: Path,
        workload: Path,
        *,
        network: NetworkPolicy = NO_NETWORK,
        http: Http | None = None,
        **limits: int,
    ) -> None:
        self.folder = folder
        self.owner, self.caller, self.auditor = self_signed(), self_signed(), self_signed()
        default = spec(network=network)
        wanted = msgspec.structs.replace(
            default,
            limits=msgspec.structs.replace(default.limits, **limits),
            principals=(
                self.owner.pinned(KeepRole.OWNER),
                self.caller.pinned(KeepRole.CALLER),
                self.auditor.pinned(KeepRole.AUDITOR),
            ),
        )
        for name in (HOST, STATE):
            (folder / name).mkdir()
        configuration = Configuration(
            id="0123456789abcdef",
            deployment="01234567",
            spec=canonical(wanted).decode(),
            domain="example.org",
            names=("localhost",),
        )
        (folder / CONFIGURATION).write_bytes(msgspec.json.encode(configuration))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._wires: list[Wire] = []
        self.start()
        loaded = self.connect(self.owner).ask(
            "PUT", "/v1/workload", workload.read_bytes(), content_type="application/wasm"
        )
        assert loaded.status == 200, loaded.body
        if http is not None:
            assert self.configure({"http": http}).status == 200

    def start(self) -> None:
        """Start its process, and wait until it can be reached."""
        (self.folder / CERTIFICATE).unlink(missing_ok=True)
        descriptor = self._listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.app_loader.keep_process", str(self.folder), str(descriptor)],
            cwd=REPOSITORY,
            pass_fds=[descriptor],
        )
        limit = time.monotonic() + PATIENCE
        while not (self.folder / CERTIFICATE).exists():
            assert self.process.poll() is None, "the keep ended early"
            assert time.monotonic() < limit, "the keep does not come up"
            select.select([], [], [], 0.01)

    def kill(self) -> None:
        """SIGKILL for the server; all else ends with it."""
        self.process.kill()
        self.process.wait()

    def configure(self, document: dict[str, Any]) -> Answer:
        """Say how the workload is run."""
        owner = self.connect(self.owner)
        return owner.ask("PUT", "/v1/configuration", msgspec.json.encode(document), content_type="application/json")

    def context(self, credential: Credential) -> ssl.SSLContext:
        """Of a client that trusts exactly this keep."""
        context = ssl.create_default_context(cafile=self.folder / CERTIFICATE)
        context.load_cert_chain(credential.write(self.folder))
        return context

    def connect(self, credential: Credential | None = None) -> Wire:
        """A connection of somebody, of the caller if nobody is named."""
        connection = socket.create_connection(self.address, timeout=PATIENCE)
        wire = Wire(self.context(credential or self.caller).wrap_socket(connection, server_hostname=self.name))
        self._wires.append(wire)
        return wire

    def adopt(self, wire: Wire) -> None:
        """Close a connection with the keep at the latest."""
        self._wires.append(wire)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request of the caller to the workload, on a connection of its own."""
        return self.connect().ask(method, f"/v1/http{path}", body, **headers)

    def processes(self) -> set[int]:
        """The pids of the keep's server, runner and all that the runner has forked."""
        found, waiting = set(), [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                waiting += map(int, children.split())
        return found

    def descriptors(self) -> int:
        """How many descriptors the server has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self) -> None:
        """End all of it."""
        for wire in self._wires:
            wire.close()
        self.process.kill()
        self.process.wait()
        self._listener.close()
        # Whoever removes a keep does this; this one has nobody, and it was killed.
        shutil.rmtree(memory_folder_of(self.folder / STATE, SHARED_MEMORY), ignore_errors=True)


@contextlib.contextmanager
def http_keep(
    folder: Path,
    workload: Path = PROBE,
    *,
    network: NetworkPolicy = NO_NETWORK,
    http: Http | None = None,
    **limits: int,
) -> Iterator[HttpKeep]:
    """Lives as long as the block; with `http` in its configuration."""
    folder.mkdir(exist_ok=True)
    keep = HttpKeep(folder, workload, network=network, http=http, **limits)
    try:
        yield keep
    finally:
        keep.end()
