"""A supervisor in memory whose keeps are TLS servers in this very process; for routes and the life of keeps.

The hand-over, `keep.json` and the TLS handshake are real; only systemd and the process are not.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import secrets
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keep_manager.errors import SupervisorUnavailableError, UnitStartError
from keep_manager.supervisor.interface import (
    ActiveState,
    Promises,
    SandboxReport,
    SupervisorKind,
    SupervisorPaths,
    UnitKind,
    UnitStatus,
)
from keep_protocol.handover import PROTOCOL_VERSION, Configuration, Handover, Hello, KeepFile, SandboxFact
from keep_protocol.spec import Limits


@dataclass
class Unit:
    """A unit: its status, and the server that stands for its process."""

    status: UnitStatus
    server: asyncio.Server | None = None


class FakeSupervisor:
    """Does what `Supervisor` promises. Tests set `alive`, `failing`, `promises` and call `crash`."""

    kind = SupervisorKind.PRIVATE
    reason = "made for a test"

    def __init__(self, root: Path) -> None:
        self.paths = SupervisorPaths(root / "run", root / "keeps", root / "logs")
        for path in (self.paths.runtime, self.paths.state, self.paths.logs):
            path.mkdir(parents=True, exist_ok=True)
        self.promises = Promises(frozenset({"memory", "cpu", "tasks"}), True, True, True)
        self.alive = True
        self.failing: str | None = None
        """systemd's `Result` for units that shall not start."""
        self.gate: asyncio.Event | None = None
        """What a start waits for."""
        self.units: dict[str, Unit] = {}
        self.started: list[str] = []
        self.broker_units: dict[str, UnitStatus] = {}
        self.broker_configurations: dict[str, bytes] = {}
        self.broker_failing: str | None = None
        """The `Result` for brokers that shall not start."""
        self._starting: str | None = None
        self._changes: asyncio.Queue[UnitStatus | None] = asyncio.Queue()

    async def connect(self) -> None:
        self._answer()

    async def close(self) -> None:
        for unit in self.units.values():
            await _end(unit)

    async def shut_down(self) -> None:
        await self.close()
        self.units.clear()

    async def list(self) -> dict[str, UnitStatus]:
        self._answer()
        return {instance: unit.status for instance, unit in self.units.items()}

    async def status(self, instance: str) -> UnitStatus | None:
        self._answer()
        unit = self.units.get(instance)
        return unit.status if unit else None

    async def start(self, instance: str, limits: Limits) -> UnitStatus:
        self._answer()
        self.started.append(instance)
        invocation = secrets.token_hex(16)
        unit = self.units[instance] = Unit(
            UnitStatus(instance, ActiveState.ACTIVATING, "start", "success", os.getpid(), invocation, 0)
        )
        if self.gate is not None:
            await self.gate.wait()
        if self.failing is not None:
            unit.status = replace(unit.status, active=ActiveState.FAILED, result=self.failing, main_pid=None)
            self.log_path(instance).write_text("starting\nthe reason why\n")
            raise UnitStartError(instance, self.failing)
        self._starting = instance
        listener, configuration = await asyncio.to_thread(self._take, instance, invocation)
        unit.server = await self._serve(instance, listener, configuration, invocation)
        unit.status = replace(unit.status, active=ActiveState.ACTIVE, sub="running")
        self._changes.put_nowait(unit.status)
        return unit.status

    async def stop(self, instance: str) -> None:
        self._answer()
        if (unit := self.units.get(instance)) is not None:
            await _end(unit)
            self.change(instance, ActiveState.INACTIVE)

    async def brokers(self) -> dict[str, UnitStatus]:
        self._answer()
        return dict(self.broker_units)

    async def start_broker(self, instance: str, configuration: bytes) -> UnitStatus:
        self._answer()
        if self.broker_failing is not None:
            raise UnitStartError(instance, self.broker_failing)
        self.broker_configurations[instance] = configuration
        status = UnitStatus(
            instance, ActiveState.ACTIVE, "running", "success", os.getpid(), secrets.token_hex(16), 0, UnitKind.BROKER
        )
        self.broker_units[instance] = status
        self._changes.put_nowait(status)
        return status

    async def stop_broker(self, instance: str) -> None:
        self._answer()
        if (status := self.broker_units.pop(instance, None)) is not None:
            self._changes.put_nowait(replace(status, active=ActiveState.INACTIVE))

    async def instance_of(self, pid: int) -> str | None:
        return self._starting if pid == os.getpid() else None

    async def changes(self) -> AsyncIterator[UnitStatus]:
        while (status := await self._changes.get()) is not None:
            yield status

    async def wipe(self, instance: str) -> None:
        self._answer()
        self.units.pop(instance, None)
        shutil.rmtree(self.paths.runtime / "keeps" / instance, ignore_errors=True)
        self.log_path(instance).unlink(missing_ok=True)

    async def sandbox(self, *, machine: bool) -> SandboxReport:
        """Nothing is known."""
        return SandboxReport((), (), "")

    def log_path(self, instance: str) -> Path:
        return self.paths.logs / f"{instance}.log"

    def change(self, instance: str, active: ActiveState, result: str = "success") -> None:
        """Let a unit be in another state, and tell."""
        unit = self.units[instance]
        unit.status = replace(unit.status, active=active, result=result, main_pid=None)
        self._changes.put_nowait(unit.status)

    def _answer(self) -> None:
        if not self.alive:
            raise SupervisorUnavailableError("it does not answer")

    def _take(self, instance: str, invocation: str) -> tuple[socket.socket, Configuration]:
        """What a keep-loader does."""
        path = self.paths.runtime / "hosts" / instance / "handover.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(path))
            connection.send(msgspec.json.encode(Hello(PROTOCOL_VERSION, instance, invocation)))
            message, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        answer = msgspec.json.decode(message, type=Handover)
        assert answer.result == "ok", answer.reason
        listener, memory = descriptors
        with os.fdopen(memory, "rb") as file:
            configuration = msgspec.json.decode(file.read(), type=Configuration)
        return socket.socket(fileno=listener), configuration

    async def _serve(
        self, instance: str, listener: socket.socket, configuration: Configuration, invocation: str
    ) -> asyncio.Server:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = keep_certificate(key, configuration)
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        folder = self.paths.runtime / "keeps" / instance
        folder.mkdir(parents=True, exist_ok=True)
        facts = (SandboxFact("no-network", True), SandboxFact("own-user", False, "for a test"))
        (folder / "keep.json").write_bytes(msgspec.json.encode(KeepFile(PROTOCOL_VERSION, pem, invocation, facts)))
        return await asyncio.start_server(_hang_up, sock=listener, ssl=tls_server(pem, key))


def keep_certificate(key: ec.EllipticCurvePrivateKey, configuration: Configuration) -> x509.Certificate:
    """Self-signed, valid for a day."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, configuration.id)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def tls_server(pem: str, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """A TLS 1.3 server with this certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem.encode() + private)
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _end(unit: Unit) -> None:
    if unit.server is not None:
        unit.server.close()
        unit.server = None
